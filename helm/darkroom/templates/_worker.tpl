{{/* The longer parts of a worker's pod. */}}

{{/* The GPUs that a worker asks the device plugin for; none where it claims them, and on a CPU. */}}
{{- define "darkroom.gpus" -}}
{{- $w := .Values.worker -}}
{{- if and $w.gpuResource (gt (int $w.gpus) 0) (empty $w.resourceClaimTemplates) -}}
{{ $w.gpuResource }}: {{ int $w.gpus }}
{{- end -}}
{{- end -}}

{{/* Nodes by their GPU's memory, beside what the values say. */}}
{{- define "darkroom.workerAffinity" -}}
{{- $w := .Values.worker -}}
{{- $affinity := deepCopy $w.affinity -}}
{{- if and (include "darkroom.gpus" . | fromYaml) (not (hasKey $affinity "nodeAffinity")) -}}
{{- $memory := "nvidia.com/gpu.memory" -}}
{{- $atLeast := dict "matchExpressions" (list (dict "key" $memory "operator" "Gt" "values" (list (toString (sub (int $w.gpuMemory.minimumMiB) 1))))) -}}
{{- $better := dict "matchExpressions" (list (dict "key" $memory "operator" "Gt" "values" (list (toString (sub (int $w.gpuMemory.preferredMiB) 1))))) -}}
{{- $preferred := list (dict "weight" 100 "preference" $better) -}}
{{- $node := dict -}}
{{- if $w.gpuMemory.required -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" (list $atLeast)) -}}
{{- else -}}
{{- $preferred = append $preferred (dict "weight" 50 "preference" $atLeast) -}}
{{- end -}}
{{- $_ := set $node "preferredDuringSchedulingIgnoredDuringExecution" $preferred -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- end -}}
{{- with $affinity -}}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "darkroom.cacheVolume" -}}
{{- $cache := .Values.worker.cache -}}
- name: cache
  {{- if eq $cache.type "pvc" }}
  persistentVolumeClaim:
    claimName: {{ $cache.existingClaim | default (printf "%s-cache" (include "darkroom.fullname" .)) }}
  {{- else if eq $cache.type "ephemeral" }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        {{- include "darkroom.cacheClaim" (dict "cache" $cache "accessMode" "ReadWriteOnce") | nindent 8 }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ int $cache.sizeGi }}Gi
  {{- end }}
{{- end -}}

{{/* Arguments: cache, accessMode. */}}
{{- define "darkroom.cacheClaim" -}}
accessModes:
  - {{ .accessMode }}
{{- with .cache.storageClassName }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ int .cache.sizeGi }}Gi
{{- end -}}
