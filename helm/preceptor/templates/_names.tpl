{{/* Names, labels and images. Every named template takes (dict "root" $ "name" <component> …) unless it says otherwise. */}}

{{/* The prefix of every object's name; takes the root. 36 characters: the longest suffix and a StatefulSet's hash still fit into 63. */}}
{{- define "preceptor.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "preceptor.componentName" -}}
{{ include "preceptor.fullname" .root }}-{{ .name }}
{{- end -}}

{{/* What a Service, a PodDisruptionBudget or a NetworkPolicy selects by; never changes over a release's life. */}}
{{- define "preceptor.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .name | quote }}
{{- end -}}

{{- define "preceptor.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{ include "preceptor.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
app.kubernetes.io/part-of: preceptor
{{- end -}}

{{- define "preceptor.metadata" -}}
name: {{ include "preceptor.componentName" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "preceptor.labels" . | nindent 2 }}
{{- end -}}

{{/* Takes root and image (repository, tag, digest). A digest wins over a tag. */}}
{{- define "preceptor.image" -}}
{{- $registry := .root.Values.image.registry -}}
{{- $name := ternary .image.repository (printf "%s/%s" $registry .image.repository) (empty $registry) -}}
{{- if .image.digest -}}
{{ $name }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ default (default .root.Chart.AppVersion .root.Values.image.tag) .image.tag }}
{{- end -}}
{{- end -}}

{{- define "preceptor.serviceAccountName" -}}
{{- default (include "preceptor.componentName" .) .values.serviceAccount.name -}}
{{- end -}}
