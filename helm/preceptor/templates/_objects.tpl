{{/* Objects that are the same for every stage. Each takes root, name and values. */}}

{{- define "preceptor.serviceAccount" -}}
{{- if not .values.serviceAccount.name }}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "preceptor.metadata" . | nindent 2 }}
  {{- with .values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end -}}

{{/* Headless, so that gRPC clients see every pod and spread their calls (round_robin). Also takes port and metricsPort. */}}
{{- define "preceptor.headlessService" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "preceptor.metadata" . | nindent 2 }}
spec:
  clusterIP: None
  selector:
    {{- include "preceptor.selector" . | nindent 4 }}
  ports:
    - name: grpc
      port: {{ .port }}
      targetPort: grpc
      appProtocol: kubernetes.io/h2c
    - name: metrics
      port: {{ .metricsPort }}
      targetPort: metrics
{{- end -}}

{{- define "preceptor.podDisruptionBudget" -}}
{{- if .values.podDisruptionBudget.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "preceptor.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .values.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "preceptor.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/*
Also takes kind (what is scaled), and for scaling by our own metric: metric. Without metric it scales by CPU.
scaleDownStabilizationSeconds comes from the values.
*/}}
{{- define "preceptor.autoscaler" -}}
{{- $scaling := .values.autoscaling -}}
{{- if and $scaling.enabled (ne (default "hpa" $scaling.kind) "keda") }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "preceptor.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: {{ .kind }}
    name: {{ include "preceptor.componentName" . }}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  behavior:
    {{- include "preceptor.scalingBehavior" . | nindent 4 }}
  metrics:
    {{- if .metric }}
    - type: Pods
      pods:
        metric:
          name: {{ .metric }}
        target:
          type: AverageValue
          averageValue: {{ $scaling.target | quote }}
    {{- else }}
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $scaling.targetCPUUtilizationPercentage }}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "preceptor.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: {{ .values.autoscaling.scaleUpStabilizationSeconds }}
scaleDown:
  stabilizationWindowSeconds: {{ .values.autoscaling.scaleDownStabilizationSeconds }}
{{- end -}}

{{/* As above, by KEDA from Prometheus. One number for the whole stage: a query that returns one row per pod is an error. */}}
{{- define "preceptor.scaledObject" -}}
{{- $scaling := .values.autoscaling -}}
{{- if and $scaling.enabled (eq (default "hpa" $scaling.kind) "keda") }}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  {{- include "preceptor.metadata" . | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: {{ .kind }}
    name: {{ include "preceptor.componentName" . }}
  minReplicaCount: {{ $scaling.minReplicas }}
  maxReplicaCount: {{ $scaling.maxReplicas }}
  # Prometheus out of reach: stay where we are told is enough, rather than at whatever was last computed.
  fallback:
    failureThreshold: 5
    replicas: {{ $scaling.minReplicas }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        {{- include "preceptor.scalingBehavior" . | nindent 8 }}
  triggers:
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ .root.Values.monitoring.prometheusAddress | quote }}
        query: sum({{ .metric }}{namespace="{{ .root.Release.Namespace }}",pod=~"{{ include "preceptor.componentName" . }}-.*"})
        threshold: {{ $scaling.target | quote }}
        ignoreNullValues: "false"
{{- end }}
{{- end -}}
