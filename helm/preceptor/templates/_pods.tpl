{{/* What all pods and containers share, so that no stage can forget it. */}}

{{- define "preceptor.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* Takes uid (default: the images' own user). */}}
{{- define "preceptor.podSecurity" -}}
{{- $uid := default 10001 .uid -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $uid }}
  runAsGroup: {{ $uid }}
  fsGroup: {{ $uid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/*
Probes of a process of ours, on its plaintext metrics port. Takes probes, and optionally startupPath. The start is
judged by /healthz (the process answers) unless told otherwise; traffic follows /readyz.
*/}}
{{- define "preceptor.probes" -}}
startupProbe:
  httpGet:
    path: {{ default "/healthz" .startupPath }}
    port: metrics
  periodSeconds: 5
  timeoutSeconds: {{ .probes.timeoutSeconds }}
  failureThreshold: {{ max 1 (ceil (divf .probes.startupSeconds 5)) | int }}
livenessProbe:
  httpGet:
    path: /healthz
    port: metrics
  periodSeconds: {{ .probes.periodSeconds }}
  timeoutSeconds: {{ .probes.timeoutSeconds }}
  failureThreshold: {{ .probes.failureThreshold }}
readinessProbe:
  httpGet:
    path: /readyz
    port: metrics
  periodSeconds: {{ .probes.periodSeconds }}
  timeoutSeconds: {{ .probes.timeoutSeconds }}
  failureThreshold: 1
{{- end -}}

{{/*
A container of ours but for its command, env, ports and probes. Takes root, values, and optionally artifacts ("ro" or
"rw"), shm, preStopSeconds and mounts (text).
*/}}
{{- define "preceptor.containerRest" -}}
image: {{ include "preceptor.image" (dict "root" .root "image" .values.image) | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{ include "preceptor.containerSecurity" . }}
resources:
  {{- toYaml .values.resources | nindent 2 }}
{{- if .preStopSeconds }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .preStopSeconds }}
{{- end }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: home
    mountPath: /home/preceptor
  {{- if and .artifacts (not .root.Values.artifacts.s3.url) }}
  - name: artifacts
    mountPath: {{ .root.Values.artifacts.mountPath }}
    readOnly: {{ eq .artifacts "ro" }}
  {{- end }}
  {{- if .shm }}
  - name: shm
    mountPath: /dev/shm
  {{- end }}
  {{- with .mounts }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Environment that is not a setting of ours, and the stage's extraEnv. Takes values. */}}
{{- define "preceptor.envRest" -}}
- name: HOME
  value: /home/preceptor
- name: USER
  value: preceptor
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* No versions among a pod's labels: an upgrade restarts the pods that it changes, and Redis is none of them. */}}
{{- define "preceptor.podMetadata" -}}
labels:
  {{- include "preceptor.selector" . | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
A pod's spec but for its containers. Takes root, name, values, graceSeconds, and optionally artifacts, shmSize, uid, token
(it calls the Kubernetes API) and volumes (text). Service links are off: Kubernetes would inject e.g. PRECEPTOR_FEEDBACK_PORT=tcp://… for a Service of
that name, which is one of our settings.
*/}}
{{- define "preceptor.podRest" -}}
enableServiceLinks: false
automountServiceAccountToken: {{ default false .token }}
serviceAccountName: {{ include "preceptor.serviceAccountName" . }}
terminationGracePeriodSeconds: {{ .graceSeconds }}
{{ include "preceptor.podSecurity" . }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- if not .uid }}
  - name: home
    emptyDir: {}
  {{- end }}
  {{- if and .artifacts (not .root.Values.artifacts.s3.url) }}
  - name: artifacts
    persistentVolumeClaim:
      claimName: {{ include "preceptor.artifactsClaim" .root }}
  {{- end }}
  {{- if .shmSize }}
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: {{ .shmSize }}
  {{- end }}
  {{- with .volumes }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
