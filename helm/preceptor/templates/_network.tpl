{{/*
The map: who calls whom, on which port. The only place where edges are written down; each stage's NetworkPolicy takes
its own from here. 29500 is where the workers of one learner job meet; the conductor also calls the Kubernetes API.
*/}}
{{- define "preceptor.edges" -}}
edges:
  - {from: rollout, to: generation, ports: [7100]}
  - {from: rollout, to: reward, ports: [7110]}
  - {from: rollout, to: redis, ports: [6379]}
  - {from: generation, to: redis, ports: [6379]}
  - {from: generation, to: learner, ports: [7140]}
  - {from: reward, to: redis, ports: [6379]}
  - {from: feedback, to: redis, ports: [6379]}
  - {from: feedback, to: postgresql, ports: [5432]}
  - {from: feedback-worker, to: redis, ports: [6379]}
  - {from: feedback-worker, to: postgresql, ports: [5432]}
  - {from: conductor, to: generation, ports: [7100]}
  - {from: conductor, to: reward, ports: [7110]}
  - {from: conductor, to: feedback, ports: [7120]}
  - {from: conductor, to: redis, ports: [6379]}
  - {from: conductor, to: postgresql, ports: [5432]}
  - {from: conductor, to: learner, ports: [7140]}
  - {from: learner, to: redis, ports: [6379]}
  - {from: learner, to: reward, ports: [7110]}
  {{- if gt (int .root.Values.learner.workers) 1 }}
  - {from: learner, to: learner, ports: [29500]}
  {{- end }}
  - {from: console, to: feedback, ports: [7120]}
  - {from: console, to: conductor, ports: [7150]}
  - {from: console, to: learner, ports: [7140]}
  - {from: console, to: redis, ports: [6379]}
  - {from: test, to: generation, ports: [7100]}
  - {from: test, to: reward, ports: [7110]}
metrics:
  generation: [7200]
  rollout: [7230]
  reward: [7210]
  feedback: [7220]
  feedback-worker: [7221]
  conductor: [7250]
  learner: [7240]
  console: [7260]
{{- end -}}

{{- define "preceptor.ports" -}}
ports:
  {{- range . }}
  - {protocol: TCP, port: {{ . }}}
  {{- end }}
{{- end -}}

{{/* Takes root, name, and optionally from (peers from outside the release) with fromPorts. */}}
{{- define "preceptor.networkPolicy" -}}
{{- if .root.Values.networkPolicy.enabled }}
{{- $root := .root -}}
{{- $name := .name -}}
{{- $map := include "preceptor.edges" . | fromYaml -}}
{{- $network := .root.Values.networkPolicy -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "preceptor.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "preceptor.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- range $map.edges }}
    {{- if eq .to $name }}
    - from:
        - podSelector:
            matchLabels:
              {{- include "preceptor.selector" (dict "root" $root "name" .from) | nindent 14 }}
      {{- include "preceptor.ports" .ports | nindent 6 }}
    {{- end }}
    {{- end }}
    {{- with .from }}
    - from:
        {{- toYaml . | nindent 8 }}
      {{- include "preceptor.ports" $.fromPorts | nindent 6 }}
    {{- end }}
    {{- $metrics := index $map.metrics $name }}
    {{- if and $metrics $network.metricsFrom }}
    - from:
        {{- toYaml $network.metricsFrom | nindent 8 }}
      {{- include "preceptor.ports" $metrics | nindent 6 }}
    {{- end }}
  egress:
    - ports:
        - {protocol: UDP, port: 53}
        - {protocol: TCP, port: 53}
      {{- with $network.dnsTo }}
      to:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- range $map.edges }}
    {{- if eq .from $name }}
    {{- if and (eq .to "redis") (not $root.Values.redis.bundled.enabled) }}
    - to:
        {{- toYaml $root.Values.redis.external.networkPeers | nindent 8 }}
      {{- include "preceptor.ports" (list $root.Values.redis.external.port) | nindent 6 }}
    {{- else if and (eq .to "postgresql") (not $root.Values.postgresql.bundled.enabled) }}
    - to:
        {{- toYaml $root.Values.postgresql.external.networkPeers | nindent 8 }}
      {{- include "preceptor.ports" (list $root.Values.postgresql.external.port) | nindent 6 }}
    {{- else }}
    - to:
        - podSelector:
            matchLabels:
              {{- include "preceptor.selector" (dict "root" $root "name" .to) | nindent 14 }}
      {{- include "preceptor.ports" .ports | nindent 6 }}
    {{- end }}
    {{- end }}
    {{- end }}
    {{- if and $root.Values.artifacts.s3.url (has $name (list "generation" "reward" "conductor" "learner")) }}
    - to:
        {{- toYaml $root.Values.artifacts.s3.networkPeers | nindent 8 }}
      {{- include "preceptor.ports" (list $root.Values.artifacts.s3.port) | nindent 6 }}
    {{- end }}
    {{- if eq $name "conductor" }}
    - ports:
        - {protocol: TCP, port: 443}
        - {protocol: TCP, port: 6443}
      {{- with $network.kubernetesApiTo }}
      to:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- end }}
    {{- with $network.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end -}}
