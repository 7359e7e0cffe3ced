{{/* From values to DARKROOM_* variables, and what a pod needs to have them. */}}

{{/* A number as people write it: values are parsed as floats, and 42949672960 would be 4.294967296e+10. */}}
{{- define "darkroom.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else if kindIs "slice" . -}}
{{- join "," . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* Every setting that has a value, and those that follow from other values. */}}
{{- define "darkroom.variables" -}}
{{- range $section, $settings := .Values.settings }}
{{- if kindIs "map" $settings }}
{{- range $name, $value := $settings }}
{{- if not (kindIs "invalid" $value) }}
{{ printf "DARKROOM_%s__%s" (upper $section) (upper $name) }}: {{ include "darkroom.text" $value | quote }}
{{- end }}
{{- end }}
{{- else if not (kindIs "invalid" $settings) }}
DARKROOM_{{ upper $section }}: {{ include "darkroom.text" $settings | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What follows from the chart for a worker: paths on its volumes, addresses to listen on. */}}
{{- define "darkroom.workerVariables" -}}
DARKROOM_WORKER__METRICS_HOST: "0.0.0.0"
DARKROOM_MODEL__CACHE_PATH: /var/cache/darkroom/models
DARKROOM_MODEL__PROFILE_DIR: /var/cache/darkroom/profiles
DARKROOM_MODEL__COMPILE_CACHE_DIR: /var/cache/darkroom/compiled
{{- if not (dig "cache_bytes_max" nil .Values.settings.model) }}
DARKROOM_MODEL__CACHE_BYTES_MAX: {{ include "darkroom.cacheBytes" . | quote }}
{{- end }}
{{- end -}}

{{/* What models may take of their volume: the rest is profiles, compiled code, and the file system's own. */}}
{{- define "darkroom.cacheBytes" -}}
{{- div (mul (int64 .Values.worker.cache.sizeGi) 1073741824 85) 100 -}}
{{- end -}}

{{- define "darkroom.metricsPort" -}}
{{- int (dig "metrics_port" 9464 .Values.settings.worker) -}}
{{- end -}}

{{/* env: of every container that reads the settings: secrets as mounted files, names as values. */}}
{{- define "darkroom.env" -}}
{{- $s3 := .Values.secrets.s3 }}
{{- if and $s3.name (include "darkroom.s3HasOwnKeys" .) }}
- name: DARKROOM_S3__ACCESS_KEY_FILE
  value: /etc/darkroom/s3/{{ $s3.accessKey }}
- name: DARKROOM_S3__SECRET_KEY_FILE
  value: /etc/darkroom/s3/{{ $s3.secretKey }}
{{- with $s3.sessionToken }}
- name: DARKROOM_S3__SESSION_TOKEN_FILE
  value: /etc/darkroom/s3/{{ . }}
{{- end }}
{{- end }}
{{- if include "darkroom.s3ProjectsToken" . }}
- name: DARKROOM_S3__WEB_IDENTITY_TOKEN_FILE
  value: /etc/darkroom/s3-identity/token
{{- end }}
{{- if .Values.secrets.s3Ca.name }}
- name: DARKROOM_S3__CA_FILE
  value: /etc/darkroom/s3-ca/{{ .Values.secrets.s3Ca.key }}
{{- end }}
{{- $kafka := .Values.secrets.kafka }}
{{- if $kafka.name }}
{{- with $kafka.username }}
- name: DARKROOM_KAFKA__SASL_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ $kafka.name }}
      key: {{ . }}
{{- end }}
{{- with $kafka.password }}
- name: DARKROOM_KAFKA__SASL_PASSWORD_FILE
  value: /etc/darkroom/kafka/{{ . }}
{{- end }}
{{- with $kafka.oauthSecret }}
- name: DARKROOM_KAFKA__OAUTH_CLIENT_SECRET_FILE
  value: /etc/darkroom/kafka/{{ . }}
{{- end }}
{{- with $kafka.ca }}
- name: DARKROOM_KAFKA__SSL_CAFILE
  value: /etc/darkroom/kafka/{{ . }}
{{- end }}
{{- with $kafka.certificate }}
- name: DARKROOM_KAFKA__SSL_CERTFILE
  value: /etc/darkroom/kafka/{{ . }}
{{- end }}
{{- with $kafka.key }}
- name: DARKROOM_KAFKA__SSL_KEYFILE
  value: /etc/darkroom/kafka/{{ . }}
{{- end }}
{{- end }}
{{- if .Values.policy.configMap }}
- name: DARKROOM_POLICY__FILE
  value: /etc/darkroom/policy/{{ .Values.policy.key }}
{{- end }}
{{- if .Values.recipes.configMap }}
- name: DARKROOM_MODEL__RECIPES_FILE
  value: /etc/darkroom/recipes/{{ .Values.recipes.key }}
{{- end }}
{{- end -}}

{{/* Whether the store's keys are those of secrets.s3: something, or nothing. */}}
{{- define "darkroom.s3HasOwnKeys" -}}
{{- if has (dig "credentials" "static" .Values.settings.s3 | default "static") (list "static" "files") -}}yes{{- end -}}
{{- end -}}

{{/* Whether the pod's own token is what the store's token service exchanges: something, or nothing. */}}
{{- define "darkroom.s3ProjectsToken" -}}
{{- $s3 := .Values.settings.s3 -}}
{{- if and (eq (dig "credentials" "static" $s3 | default "static") "web_identity") (not (dig "web_identity_token_file" nil $s3)) -}}yes{{- end -}}
{{- end -}}

{{- define "darkroom.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if include "darkroom.s3ProjectsToken" . }}
- name: s3-identity
  mountPath: /etc/darkroom/s3-identity
  readOnly: true
{{- end }}
{{- range $name, $secret := include "darkroom.mountedSecrets" . | fromYaml }}
- name: {{ $name }}
  mountPath: /etc/darkroom/{{ $name }}
  readOnly: true
{{- end }}
{{- if .Values.policy.configMap }}
- name: policy
  mountPath: /etc/darkroom/policy
  readOnly: true
{{- end }}
{{- if .Values.recipes.configMap }}
- name: recipes
  mountPath: /etc/darkroom/recipes
  readOnly: true
{{- end }}
{{- end -}}

{{/* 0440: the pod's group reads, nobody else. */}}
{{- define "darkroom.volumes" -}}
{{- if include "darkroom.s3ProjectsToken" . }}
- name: s3-identity
  projected:
    defaultMode: 288
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ .Values.s3Identity.audience }}
          expirationSeconds: 3600
{{- end }}
{{- range $name, $secret := include "darkroom.mountedSecrets" . | fromYaml }}
- name: {{ $name }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 288
{{- end }}
{{- with .Values.policy.configMap }}
- name: policy
  configMap:
    name: {{ . }}
{{- end }}
{{- with .Values.recipes.configMap }}
- name: recipes
  configMap:
    name: {{ . }}
{{- end }}
{{- end -}}

{{- define "darkroom.mountedSecrets" -}}
{{- if include "darkroom.s3HasOwnKeys" . }}
{{- with .Values.secrets.s3.name }}
s3: {{ . }}
{{- end }}
{{- end }}
{{- with .Values.secrets.s3Ca.name }}
s3-ca: {{ . }}
{{- end }}
{{- with .Values.secrets.kafka.name }}
kafka: {{ . }}
{{- end }}
{{- end -}}

{{/* Nobody but root may do more than this, and these containers are not root. */}}
{{- define "darkroom.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What libraries write into a home folder goes where it may. Argument: the folder. */}}
{{- define "darkroom.home" -}}
- name: HOME
  value: {{ . }}
- name: XDG_CACHE_HOME
  value: {{ . }}/.cache
- name: MPLCONFIGDIR
  value: {{ . }}/.matplotlib
{{- end -}}
