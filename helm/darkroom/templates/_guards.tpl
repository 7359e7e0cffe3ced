{{/*
What would lose work, repeat it, or thrash is refused here, with a sentence each. Every template that is always rendered
includes this. The findings are explained in README.md, "What the chart refuses".
*/}}
{{- define "darkroom.guards" -}}
{{- $v := .Values -}}
{{- $settings := $v.settings -}}
{{- $partitions := int (dig "requests_partitions" 12 $settings.topics) -}}
{{- $drain := float64 (dig "drain_s" 30 $settings.worker) -}}
{{- $grace := float64 $v.worker.terminationGracePeriodSeconds -}}
{{- $up := $v.autoscaling.behavior.scaleUp -}}
{{- $down := $v.autoscaling.behavior.scaleDown -}}
{{- $load := int $v.worker.loadSeconds -}}
{{- $scales := ne $v.autoscaling.mode "none" -}}
{{- $replicas := ternary (int $v.autoscaling.maxReplicas) (int $v.worker.replicas) $scales -}}

{{/* Devices */}}
{{- if and $v.worker.resourceClaimTemplates (not (semverCompare ">=1.34.0-0" .Capabilities.KubeVersion.Version)) -}}
{{- fail (printf "worker.resourceClaimTemplates needs Kubernetes 1.34 or newer, where resource claims are stable; this cluster is %s. Leave it empty and use worker.gpuResource with the device plugin." .Capabilities.KubeVersion.Version) -}}
{{- end -}}

{{/* Replicas */}}
{{- if gt $replicas $partitions -}}
{{- fail (printf "%s %d is above settings.topics.requests_partitions %d: a worker without a partition only waits, and its coming and going stalls the others. Lower it, or raise the partitions (and set init.growPartitions)." (ternary "autoscaling.maxReplicas" "worker.replicas" $scales) $replicas $partitions) -}}
{{- end -}}
{{- if and $scales (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas %d is above autoscaling.maxReplicas %d." (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and (eq $v.autoscaling.mode "hpa") (lt (int $v.autoscaling.minReplicas) 1) -}}
{{- fail "autoscaling.minReplicas must be at least 1 with autoscaling.mode hpa: at zero nobody exports the metric that would bring a worker back. Scaling to zero needs mode keda." -}}
{{- end -}}
{{- if and (eq $v.autoscaling.mode "keda") $v.autoscaling.keda.fallback.enabled (gt (int $v.autoscaling.keda.fallback.replicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.keda.fallback.replicas is above autoscaling.maxReplicas: KEDA would set it all the same." -}}
{{- end -}}

{{/* Stopping */}}
{{- if lt $grace (addf $drain 30) -}}
{{- fail (printf "worker.terminationGracePeriodSeconds %g is less than 30 s above settings.worker.drain_s %g: workers would be killed while they drain, and what was on the device rendered again. Raise it to %g." $grace $drain (addf $drain 30)) -}}
{{- end -}}
{{- if lt $grace (addf (float64 $v.worker.longestBatchSeconds) 30) -}}
{{- fail (printf "worker.terminationGracePeriodSeconds %g is less than 30 s above worker.longestBatchSeconds %g: a batch that has just begun would be killed and rendered again. Raise it, and settings.worker.drain_s with it." $grace (float64 $v.worker.longestBatchSeconds)) -}}
{{- end -}}
{{- if lt $drain (float64 $v.worker.longestBatchSeconds) -}}
{{- fail (printf "settings.worker.drain_s %g is below worker.longestBatchSeconds %g: scaling in would drop batches that could have been finished. Raise it, and worker.terminationGracePeriodSeconds with it." $drain (float64 $v.worker.longestBatchSeconds)) -}}
{{- end -}}
{{- if le (float64 (dig "rebalance_timeout_ms" 60000 $settings.kafka)) (mulf $drain 1000) -}}
{{- fail (printf "settings.kafka.rebalance_timeout_ms %g must be above settings.worker.drain_s %g x 1000, or a worker that drains is evicted from the group." (float64 (dig "rebalance_timeout_ms" 60000 $settings.kafka)) $drain) -}}
{{- end -}}
{{- if and $v.gateway.enabled (lt (float64 $v.gateway.terminationGracePeriodSeconds) (addf (float64 $v.gateway.preStopSeconds) (float64 (dig "gateway" "shutdown_s" 10 $settings)))) -}}
{{- fail "gateway.terminationGracePeriodSeconds is below gateway.preStopSeconds + settings.gateway.shutdown_s (10): calls would be cut." -}}
{{- end -}}

{{/* Thrashing */}}
{{- if $scales -}}
{{- if lt (int $down.stabilizationWindowSeconds) $load -}}
{{- fail (printf "autoscaling.behavior.scaleDown.stabilizationWindowSeconds %d is below worker.loadSeconds %d: a worker would be removed in less time than it takes to load its model, and loaded again." (int $down.stabilizationWindowSeconds) $load) -}}
{{- end -}}
{{- end -}}
{{- if eq $v.autoscaling.mode "keda" -}}
{{- if and (eq (int $v.autoscaling.minReplicas) 0) (lt (int $v.autoscaling.keda.cooldownSeconds) $load) -}}
{{- fail (printf "autoscaling.keda.cooldownSeconds %d is below worker.loadSeconds %d: the last worker would go in less time than it takes to bring it back." (int $v.autoscaling.keda.cooldownSeconds) $load) -}}
{{- end -}}
{{- $metadata := $v.autoscaling.keda.kafka.metadata -}}
{{- if hasKey $metadata "excludePersistentLag" -}}
{{- fail "autoscaling.keda.kafka.metadata.excludePersistentLag may not be set: it compares lag with the last question's, and requests take longer than that, so the fleet would flap with work waiting." -}}
{{- end -}}
{{- if hasKey $metadata "scaleToZeroOnInvalidOffset" -}}
{{- fail "autoscaling.keda.kafka.metadata.scaleToZeroOnInvalidOffset may not be set: a group without offsets would stay at zero workers for ever, with requests waiting." -}}
{{- end -}}
{{- if and (hasKey $metadata "allowIdleConsumers") (eq (toString $metadata.allowIdleConsumers) "true") -}}
{{- fail "autoscaling.keda.kafka.metadata.allowIdleConsumers may not be true: workers beyond the partitions only wait." -}}
{{- end -}}
{{- if and (hasKey $metadata "offsetResetPolicy") (ne $metadata.offsetResetPolicy "earliest") -}}
{{- fail "autoscaling.keda.kafka.metadata.offsetResetPolicy must be earliest, as the workers' is: with latest, requests before the first commit count for nothing." -}}
{{- end -}}
{{- if and $v.autoscaling.keda.prometheus.enabled (not $v.autoscaling.keda.prometheus.serverAddress) -}}
{{- fail "autoscaling.keda.prometheus.enabled needs autoscaling.keda.prometheus.serverAddress, as http://prometheus.monitoring:9090." -}}
{{- end -}}
{{- end -}}

{{/* Secrets */}}
{{- range $section, $names := dict "kafka" (list "sasl_password" "oauth_client_secret") "s3" (list "access_key" "secret_key" "session_token") "access" (list "session_secret" "redis_url") -}}
{{- range $name := $names -}}
{{- if dig $section $name nil $settings -}}
{{- fail (printf "settings.%s.%s is a secret, and values are kept in the clear in the release: put it into a Secret and name that in secrets.%s." $section $name $section) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $entry := concat $v.worker.env $v.gateway.env $v.hooks.env -}}
{{- if and (hasKey $entry "value") (regexMatch "(PASSWORD|SECRET|TOKEN|ACCESS_KEY|API_KEY)$" (upper $entry.name)) -}}
{{- fail (printf "the variable %s looks like a secret and has its value in the clear: use valueFrom.secretKeyRef." $entry.name) -}}
{{- end -}}
{{- end -}}
{{- $oauth := eq (dig "sasl_mechanism" "" $settings.kafka | default "") "OAUTHBEARER" -}}
{{- if and $oauth (not (dig "oauth_assertion_file" nil $settings.kafka)) (not (and $v.secrets.kafka.name $v.secrets.kafka.oauthSecret)) -}}
{{- fail "settings.kafka.sasl_mechanism is OAUTHBEARER: secrets.kafka needs name and oauthSecret (the key in that Secret), or settings.kafka.oauth_assertion_file a path." -}}
{{- end -}}
{{- if and $oauth (eq $v.autoscaling.mode "keda") (not (and (dig "oauth_token_url" nil $settings.kafka) $v.secrets.kafka.oauthSecret)) -}}
{{- fail "autoscaling.mode keda with OAUTHBEARER needs settings.kafka.oauth_token_url and secrets.kafka.oauthSecret: KEDA finds no token endpoint by its issuer and shows no assertion." -}}
{{- end -}}
{{- if and (contains "SASL" (dig "security_protocol" "PLAINTEXT" $settings.kafka)) (not $oauth) (not (and $v.secrets.kafka.name $v.secrets.kafka.username $v.secrets.kafka.password)) -}}
{{- fail "settings.kafka.security_protocol asks for SASL: secrets.kafka needs name, username and password (the keys in that Secret)." -}}
{{- end -}}
{{- if ne (empty $v.secrets.kafka.certificate) (empty $v.secrets.kafka.key) -}}
{{- fail "secrets.kafka.certificate and secrets.kafka.key are set together or not at all." -}}
{{- end -}}

{{- if and (eq (dig "credentials" "static" $settings.s3 | default "static") "files") (not $v.secrets.s3.name) -}}
{{- fail "settings.s3.credentials is files: secrets.s3.name must name the Secret whose keys are mounted as files." -}}
{{- end -}}
{{- if and (dig "role_arn" nil $settings.s3) (ne (dig "credentials" "static" $settings.s3 | default "static") "web_identity") -}}
{{- fail "settings.s3.role_arn is for settings.s3.credentials web_identity: for aws, annotate the service account (serviceAccount.annotations) or associate it with a role." -}}
{{- end -}}

{{/* Model and cache */}}
{{- $simulated := or (kindIs "float64" (dig "simulated" "step_ms" nil $settings)) (dig "simulated" "curve_file" nil $settings) -}}
{{- if not (or (dig "path" nil $settings.model) $v.worker.tinyModel $simulated) -}}
{{- fail "settings.model.path is not set: workers would paint noise with the built-in tiny model. Set it, or worker.tinyModel: true where that is what you want." -}}
{{- end -}}
{{- $cache := $v.worker.cache -}}
{{- if and (eq $cache.type "pvc") (eq $cache.accessMode "ReadWriteOnce") (gt $replicas 1) -}}
{{- fail "worker.cache of type pvc with accessMode ReadWriteOnce can be mounted on one node: with several workers use ReadWriteMany, or type ephemeral or emptyDir." -}}
{{- end -}}
{{- if gt (float64 (dig "cache_bytes_max" 0 $settings.model | default 0)) (mulf (float64 $cache.sizeGi) 1073741824) -}}
{{- fail (printf "settings.model.cache_bytes_max is above worker.cache.sizeGi %g: the volume would be full before the cache is." (float64 $cache.sizeGi)) -}}
{{- end -}}

{{/* Callbacks */}}
{{- if and $v.hooks.enabled (not $v.secrets.hooks.name) -}}
{{- fail "hooks.enabled needs secrets.hooks.name, a Secret with the file that names the tenants and the secrets that sign their callbacks (docs/how-to/callbacks.md)." -}}
{{- end -}}

{{/* Gateway */}}
{{- $access := $v.secrets.access -}}
{{- if and $v.gateway.enabled (not (or (and $access.name $access.keys) (dig "access" "oidc_issuer" nil $settings))) -}}
{{- fail "gateway.enabled needs secrets.access.name, a Secret with the API keys (`darkroom keys new` writes them), or settings.access.oidc_issuer: without either the gateway serves loopback alone." -}}
{{- end -}}
{{- if and $v.gateway.enabled (gt (int $v.gateway.replicas) 1) (not (and $access.name $access.sessionSecret)) -}}
{{- fail "gateway.replicas above 1 needs secrets.access.sessionSecret: whoever signs in at one replica would be unknown at the others." -}}
{{- end -}}
{{- if and $v.gateway.enabled $v.gateway.ingress.enabled (not $v.gateway.ingress.host) -}}
{{- fail "gateway.ingress.enabled needs gateway.ingress.host." -}}
{{- end -}}
{{- end -}}
