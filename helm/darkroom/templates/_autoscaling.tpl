{{/* What the plain autoscaler and KEDA's have in common. */}}
{{- define "darkroom.behavior" -}}
{{- $b := .Values.autoscaling.behavior -}}
scaleUp:
  stabilizationWindowSeconds: {{ int $b.scaleUp.stabilizationWindowSeconds }}
  {{- if not (kindIs "invalid" $b.scaleUp.tolerance) }}
  tolerance: {{ $b.scaleUp.tolerance | toString | quote }}
  {{- end }}
  policies:
    - type: Pods
      value: {{ int $b.scaleUp.podsPerStep }}
      periodSeconds: {{ int $b.scaleUp.stepSeconds }}
scaleDown:
  stabilizationWindowSeconds: {{ int $b.scaleDown.stabilizationWindowSeconds }}
  policies:
    - type: Pods
      value: {{ int $b.scaleDown.podsPerStep }}
      periodSeconds: {{ int $b.scaleDown.stepSeconds }}
{{- end -}}

{{/* The kafka trigger's metadata: KEDA wants text throughout. Without fullMetadata (KEDA 2.21 and newer; older ones ignore
     it) KEDA asks for this topic alone at every poll, in place of all that the cluster has. */}}
{{- define "darkroom.kafkaTrigger" -}}
{{- $kafka := .Values.settings.kafka -}}
{{- $keda := .Values.autoscaling.keda.kafka -}}
{{- $protocol := dig "security_protocol" "PLAINTEXT" $kafka -}}
{{- $metadata := dict
  "bootstrapServers" $kafka.bootstrap_servers
  "consumerGroup" (dig "group_id" "darkroom" $kafka)
  "topic" (include "darkroom.requestsTopic" .)
  "lagThreshold" (include "darkroom.text" $keda.lagThreshold)
  "activationLagThreshold" (include "darkroom.text" $keda.activationLagThreshold)
  "offsetResetPolicy" "earliest"
  "allowIdleConsumers" "false"
  "limitToPartitionsWithLag" (toString $keda.limitToPartitionsWithLag)
  "fullMetadata" "false"
-}}
{{- if hasSuffix "SSL" $protocol -}}
{{- $_ := set $metadata "tls" "enable" -}}
{{- end -}}
{{- if hasPrefix "SASL" $protocol -}}
{{- $names := dict "PLAIN" "plaintext" "SCRAM-SHA-256" "scram_sha256" "SCRAM-SHA-512" "scram_sha512" "OAUTHBEARER" "oauthbearer" -}}
{{- $_ := set $metadata "sasl" (get $names ($kafka.sasl_mechanism | default "PLAIN")) -}}
{{- end -}}
{{- range $name, $value := $keda.metadata -}}
{{- $_ := set $metadata $name (include "darkroom.text" $value) -}}
{{- end -}}
{{- toYaml $metadata -}}
{{- end -}}

{{/* Whether KEDA needs a secret to reach Kafka: a name, or nothing. */}}
{{- define "darkroom.triggerAuthentication" -}}
{{- $kafka := .Values.secrets.kafka -}}
{{- if and $kafka.name (or $kafka.username $kafka.oauthSecret $kafka.ca $kafka.certificate) -}}
{{- include "darkroom.fullname" . }}-kafka
{{- end -}}
{{- end -}}
