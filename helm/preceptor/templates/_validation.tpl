{{/* Values that each are right and together make no system. Takes the root; fails with all sentences at once. */}}
{{- define "preceptor.validate" -}}
{{- $problems := concat (include "preceptor.problems.stages" . | fromYamlArray) (include "preceptor.problems.stores" . | fromYamlArray) (include "preceptor.problems.scaling" . | fromYamlArray) (include "preceptor.problems.network" . | fromYamlArray) -}}
{{- if $problems -}}
{{- fail (printf "\n\nThese values contradict each other:\n- %s\n" (join "\n- " $problems)) -}}
{{- end -}}
{{- end -}}

{{- define "preceptor.problems.stages" -}}
{{- $v := .Values }}
{{- if and $v.generation.enabled (eq (empty $v.generation.runId) (empty $v.generation.modelDir)) }}
- "generation.runId and generation.modelDir: give exactly one, a run to follow or a folder to serve."
{{- end }}
{{- if and $v.conductor.enabled $v.generation.enabled $v.generation.modelDir }}
- "generation.modelDir with conductor.enabled: the loop's new policy versions would never be served. Give generation.runId (<loop>-rl), or set conductor.enabled to false."
{{- end }}
{{- if and $v.conductor.enabled (not (and $v.generation.enabled $v.rollout.enabled $v.reward.enabled $v.feedback.enabled)) }}
- "conductor.enabled: a loop needs generation, rollout, reward and feedback; enable them, or set conductor.enabled to false."
{{- end }}
{{- if and $v.rollout.enabled (not (and $v.generation.enabled $v.reward.enabled)) }}
- "rollout.enabled: rollout workers call generation and reward; enable both, or set rollout.enabled to false."
{{- end }}
{{- if and $v.feedbackWorker.enabled (not $v.feedback.enabled) }}
- "feedbackWorker.enabled without feedback.enabled: nobody could rank what the workers mint."
{{- end }}
{{- if and $v.console.enabled (not $v.feedback.enabled) }}
- "console.enabled without feedback.enabled: the labelling page would have nothing to show."
{{- end }}
{{- if and $v.console.ingress.enabled (empty $v.console.ingress.host) }}
- "console.ingress.enabled without console.ingress.host: the console answers to named hosts only."
{{- end }}
{{- $names := list }}
{{- range $v.reward.models }}
{{- $names = append $names (splitList "=" . | first) }}
{{- end }}
{{- if and $v.reward.current (not (has $v.reward.current $names)) }}
- "reward.current is {{ $v.reward.current }}, which is not in reward.models ({{ default "empty" (join ", " $names) }})."
{{- end }}
{{- end -}}

{{- define "preceptor.problems.stores" -}}
{{- $redis := .Values.redis }}
{{- $postgresql := .Values.postgresql }}
{{- if and $redis.bundled.enabled (or $redis.external.existingSecret $redis.external.url) }}
- "redis.bundled.enabled and redis.external: use one; set redis.bundled.enabled to false for the external one."
{{- end }}
{{- if and (not $redis.bundled.enabled) (eq (empty $redis.external.existingSecret) (empty $redis.external.url)) }}
- "redis.bundled.enabled is false: give exactly one of redis.external.existingSecret and redis.external.url."
{{- end }}
{{- if regexMatch "://[^/]*@" $redis.external.url }}
- "redis.external.url holds a password: put the address into a Secret and name it in redis.external.existingSecret."
{{- end }}
{{- if and $redis.bundled.password $redis.bundled.existingSecret }}
- "redis.bundled.password and redis.bundled.existingSecret: give one."
{{- end }}
{{- if and $postgresql.bundled.enabled $postgresql.external.existingSecret }}
- "postgresql.bundled.enabled and postgresql.external.existingSecret: use one; set postgresql.bundled.enabled to false for the external one."
{{- end }}
{{- if and (or .Values.feedback.enabled .Values.conductor.enabled) (not $postgresql.bundled.enabled) (not $postgresql.external.existingSecret) }}
- "postgresql.bundled.enabled is false: name the Secret with the databases' addresses in postgresql.external.existingSecret."
{{- end }}
{{- if and $postgresql.bundled.password $postgresql.bundled.existingSecret }}
- "postgresql.bundled.password and postgresql.bundled.existingSecret: give one."
{{- end }}
{{- if and .Values.artifacts.s3.url .Values.artifacts.existingClaim }}
- "artifacts.s3.url and artifacts.existingClaim: artifacts lie in the one or on the other; give one."
{{- end }}
{{- if and .Values.artifacts.existingClaim (or .Values.artifacts.volumeName .Values.artifacts.storageClass) }}
- "artifacts.existingClaim with artifacts.volumeName or storageClass: those belong to a claim that the chart makes."
{{- end }}
{{- end -}}

{{- define "preceptor.problems.scaling" -}}
{{- $root := . }}
{{- range $stage := list "generation" "rollout" "reward" "feedback" "feedbackWorker" "console" }}
{{- $values := index $root.Values $stage }}
{{- $scaling := $values.autoscaling }}
{{- if and $values.enabled $scaling.enabled }}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
- "{{ $stage }}.autoscaling: minReplicas ({{ $scaling.minReplicas }}) is above maxReplicas ({{ $scaling.maxReplicas }})."
{{- end }}
{{- if and (eq (default "" $scaling.kind) "keda") (empty $root.Values.monitoring.prometheusAddress) }}
- "{{ $stage }}.autoscaling.kind is keda: say where Prometheus is in monitoring.prometheusAddress."
{{- end }}
{{- if and (hasKey $scaling "targetCPUUtilizationPercentage") (empty (index $values.resources.requests "cpu")) }}
- "{{ $stage }}.autoscaling is by CPU: set {{ $stage }}.resources.requests.cpu, which the share is taken of."
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "preceptor.problems.network" -}}
{{- if .Values.networkPolicy.enabled }}
{{- if and .Values.console.enabled .Values.console.ingress.enabled (empty .Values.networkPolicy.consoleFrom) }}
- "console.ingress.enabled with networkPolicy.enabled: nobody may reach the console; name the ingress controller's pods in networkPolicy.consoleFrom."
{{- end }}
{{- if and (not .Values.redis.bundled.enabled) (empty .Values.redis.external.networkPeers) }}
- "redis.external with networkPolicy.enabled: no pod may reach it; say where it is in redis.external.networkPeers."
{{- end }}
{{- if and .Values.postgresql.external.existingSecret (empty .Values.postgresql.external.networkPeers) }}
- "postgresql.external with networkPolicy.enabled: no pod may reach it; say where it is in postgresql.external.networkPeers."
{{- end }}
{{- if and .Values.artifacts.s3.url (empty .Values.artifacts.s3.networkPeers) }}
- "artifacts.s3.url with networkPolicy.enabled: no pod may reach it; say where it is in artifacts.s3.networkPeers."
{{- end }}
{{- if and .Values.monitoring.podMonitor.enabled (empty .Values.networkPolicy.metricsFrom) }}
- "monitoring.podMonitor.enabled with networkPolicy.enabled: Prometheus may not scrape; name its pods in networkPolicy.metricsFrom."
{{- end }}
{{- end }}
{{- end -}}
