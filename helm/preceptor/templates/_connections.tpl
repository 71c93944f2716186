{{/* Where each process finds the others: addresses as environment variables. */}}

{{- define "preceptor.address" -}}
dns:///{{ include "preceptor.componentName" . }}:{{ .port }}
{{- end -}}

{{/* Takes root and variable. The password stays in its Secret: kubelet puts it into the address. */}}
{{- define "preceptor.redisEnv" -}}
{{- $redis := .root.Values.redis -}}
{{- if $redis.bundled.enabled -}}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "preceptor.redisSecret" .root }}
      key: password
- name: {{ .variable }}
  value: "redis://:$(REDIS_PASSWORD)@{{ include "preceptor.componentName" (dict "root" .root "name" "redis") }}:6379/0"
{{- else if $redis.external.existingSecret -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $redis.external.existingSecret }}
      key: {{ $redis.external.secretKey }}
{{- else -}}
- name: {{ .variable }}
  value: {{ $redis.external.url | quote }}
{{- end -}}
{{- end -}}

{{/* Takes root, variable and database (feedback or conductor). */}}
{{- define "preceptor.databaseEnv" -}}
{{- $postgresql := .root.Values.postgresql -}}
{{- if $postgresql.bundled.enabled -}}
- name: POSTGRES_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "preceptor.postgresqlSecret" .root }}
      key: password
- name: {{ .variable }}
  value: "postgresql://preceptor:$(POSTGRES_PASSWORD)@{{ include "preceptor.componentName" (dict "root" .root "name" "postgresql") }}:5432/{{ .database }}"
{{- else -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $postgresql.external.existingSecret }}
      key: {{ index $postgresql.external.secretKeys .database }}
{{- end -}}
{{- end -}}

{{- define "preceptor.redisSecret" -}}
{{- default (include "preceptor.componentName" (dict "root" . "name" "redis")) .Values.redis.bundled.existingSecret -}}
{{- end -}}

{{- define "preceptor.postgresqlSecret" -}}
{{- default (include "preceptor.componentName" (dict "root" . "name" "postgresql")) .Values.postgresql.bundled.existingSecret -}}
{{- end -}}

{{/* Takes root, name and given. A password once generated is kept: an upgrade or a second install reads it back. */}}
{{- define "preceptor.password" -}}
{{- $stored := lookup "v1" "Secret" .root.Release.Namespace (include "preceptor.componentName" .) -}}
{{- if .given -}}
{{- .given -}}
{{- else if $stored -}}
{{- index $stored.data "password" | b64dec -}}
{{- else -}}
{{- randAlphaNum 32 -}}
{{- end -}}
{{- end -}}

{{- define "preceptor.artifactsUrl" -}}
{{- default (printf "file://%s" .Values.artifacts.mountPath) .Values.artifacts.s3.url -}}
{{- end -}}

{{/* The object store's own variables, for those who read or write artifacts. Takes the root. */}}
{{- define "preceptor.s3Env" -}}
{{- $s3 := .Values.artifacts.s3 -}}
{{- if $s3.url }}
{{- with $s3.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with $s3.region }}
- name: AWS_DEFAULT_REGION
  value: {{ . | quote }}
{{- end }}
{{- with $s3.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: access-key-id
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: secret-access-key
{{- end }}
{{- end }}
{{- end -}}

{{- define "preceptor.artifactsClaim" -}}
{{- default (include "preceptor.componentName" (dict "root" . "name" "artifacts")) .Values.artifacts.existingClaim -}}
{{- end -}}

{{/*
What every process is told. Takes root, prefix (e.g. PRECEPTOR_REWARD), metricsPort, values, and optionally port and
threads: a number, "limit" (the CPU limit of this container), or nothing (the libraries' own choice).
*/}}
{{- define "preceptor.env" -}}
{{- if not .ownHost }}
- name: {{ .prefix }}_HOST
  value: "0.0.0.0"
{{- end }}
{{- if .port }}
- name: {{ .prefix }}_PORT
  value: {{ .port | quote }}
{{- end }}
- name: {{ .prefix }}_METRICS_PORT
  value: {{ .metricsPort | quote }}
- name: {{ .prefix }}_INSTANCE
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: {{ .prefix }}_LOG_FORMAT
  value: {{ .root.Values.logging.format | quote }}
- name: {{ .prefix }}_LOG_LEVEL
  value: {{ .root.Values.logging.level | quote }}
- name: {{ .prefix }}_DRAIN_TIMEOUT_S
  value: {{ .values.drainTimeoutSeconds | quote }}
- name: {{ .prefix }}_ARTIFACTS_URL
  value: {{ include "preceptor.artifactsUrl" .root | quote }}
{{- if eq (toString .threads) "limit" }}
- name: {{ .prefix }}_THREADS
  valueFrom:
    resourceFieldRef:
      resource: limits.cpu
{{- else if .threads }}
- name: {{ .prefix }}_THREADS
  value: {{ .threads | quote }}
{{- end }}
{{- if has .name (list "generation" "reward" "conductor" "learner") }}
{{- include "preceptor.s3Env" .root }}
{{- end }}
{{ include "preceptor.redisEnv" (dict "root" .root "variable" (printf "%s_REDIS_URL" .prefix)) }}
{{- end -}}
