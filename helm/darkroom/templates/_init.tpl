{{/* `darkroom init` as a job's spec. Arguments: root, settings (a ConfigMap's name), grow. */}}
{{- define "darkroom.initJob" -}}
{{- $v := .root.Values -}}
backoffLimit: {{ int $v.init.backoffLimit }}
activeDeadlineSeconds: {{ int $v.init.activeDeadlineSeconds }}
template:
  metadata:
    labels:
      {{- include "darkroom.labels" (dict "root" .root "part" "init") | nindent 6 }}
  spec:
    restartPolicy: Never
    automountServiceAccountToken: false
    enableServiceLinks: false
    {{- with $v.image.pullSecrets }}
    imagePullSecrets:
      {{- range . }}
      - name: {{ . }}
      {{- end }}
    {{- end }}
    securityContext:
      {{- toYaml $v.gateway.podSecurityContext | nindent 6 }}
    containers:
      - name: init
        image: {{ include "darkroom.image" (dict "root" .root "repository" $v.image.gateway) }}
        imagePullPolicy: {{ $v.image.pullPolicy }}
        {{- with $v.gateway.command }}
        command:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        args:
          - init
          {{- if .grow }}
          - --grow-partitions
          {{- end }}
        envFrom:
          - configMapRef:
              name: {{ .settings }}
        env:
          {{- include "darkroom.env" .root | nindent 10 }}
          {{- include "darkroom.home" "/tmp" | nindent 10 }}
        resources:
          {{- toYaml $v.init.resources | nindent 10 }}
        securityContext:
          {{- include "darkroom.containerSecurity" .root | nindent 10 }}
        volumeMounts:
          {{- include "darkroom.mounts" .root | nindent 10 }}
    volumes:
      - name: tmp
        emptyDir:
          sizeLimit: 256Mi
      {{- include "darkroom.volumes" .root | nindent 6 }}
{{- end -}}
