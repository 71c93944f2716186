{{/*
The Job that the conductor makes each run's from: it adds name, labels, owner and the address of the run's config. Takes
the root.
*/}}
{{- define "preceptor.learnerJob" -}}
{{- $values := .Values.learner }}
{{- $stage := dict "root" . "name" "learner" "values" $values }}
{{- $prefix := "PRECEPTOR_LEARNER" }}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "preceptor.metadata" $stage | nindent 2 }}
spec:
  # Kills and out-of-memory; the exit codes below do not count.
  backoffLimit: {{ $values.backoffLimit }}
  ttlSecondsAfterFinished: {{ $values.ttlSecondsAfterFinished }}
  # A new pod only when the old one has ended: two must never train one run.
  podReplacementPolicy: Failed
  podFailurePolicy:
    rules:
      # 1: failed for good, 2: wrong config.
      - action: FailJob
        onExitCodes: {containerName: learner, operator: In, values: [1, 2]}
      # Eviction, a drained node: it goes on from its checkpoint elsewhere.
      - action: Ignore
        onPodConditions: [{type: DisruptionTarget, status: "True"}]
      # 75: a service did not answer, 143: SIGTERM after a checkpoint.
      - action: Ignore
        onExitCodes: {containerName: learner, operator: In, values: [75, 143]}
  {{- if gt (int $values.workers) 1 }}
  completionMode: Indexed
  completions: {{ $values.workers }}
  parallelism: {{ $values.workers }}
  {{- end }}
  template:
    metadata:
      {{- include "preceptor.podMetadata" $stage | nindent 6 }}
    spec:
      restartPolicy: Never
      {{- if gt (int $values.workers) 1 }}
      subdomain: {{ include "preceptor.componentName" $stage }}
      {{- end }}
      {{- include "preceptor.podRest" (merge (dict "graceSeconds" $values.terminationGracePeriodSeconds "artifacts" "rw" "shmSize" $values.shmSize) $stage) | nindent 6 }}
      containers:
        - name: learner
          command: ["python", "-m", "preceptor.learner"]
          ports:
            - {name: grpc, containerPort: 7140}
            - {name: metrics, containerPort: 7240}
            {{- if gt (int $values.workers) 1 }}
            - {name: torchrun, containerPort: 29500}
            {{- end }}
          env:
            # Its own address, not 0.0.0.0: it announces it to the generators, the conductor and the console.
            - name: {{ $prefix }}_HOST
              valueFrom:
                fieldRef:
                  fieldPath: status.podIP
            {{- include "preceptor.env" (merge (dict "prefix" $prefix "port" 7140 "metricsPort" 7240 "threads" "limit" "ownHost" true) $stage) | nindent 12 }}
            - name: OMP_NUM_THREADS
              valueFrom:
                resourceFieldRef:
                  resource: limits.cpu
            - name: {{ $prefix }}_REWARD_ADDRESS
              value: {{ include "preceptor.address" (dict "root" . "name" "reward" "port" 7110) | quote }}
            {{- if gt (int $values.workers) 1 }}
            # The conductor adds MASTER_ADDR, the job's first pod.
            - name: RANK
              valueFrom:
                fieldRef:
                  fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
            - name: WORLD_SIZE
              value: {{ $values.workers | int | quote }}
            - name: MASTER_PORT
              value: "29500"
            {{- end }}
            {{- include "preceptor.envRest" $stage | nindent 12 }}
          {{- include "preceptor.probes" (dict "probes" $values.probes) | nindent 10 }}
          {{- include "preceptor.containerRest" (merge (dict "artifacts" "rw" "shm" true) $stage) | nindent 10 }}
{{- end -}}
