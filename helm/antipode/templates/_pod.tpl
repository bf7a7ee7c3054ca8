{{/* A server's pod, from (dict "root" $ "follower" false). A follower is a further host of a multi-host slice. */}}

{{- define "antipode.hasCoordinatorSecret" -}}
{{- if and (gt (include "antipode.hosts" . | int) 1) .Values.server.coordinatorSecret }}true{{ end }}
{{- end }}

{{/* Whether `helm test` asks the server. It has no certificate of a caller. */}}
{{- define "antipode.isTested" -}}
{{- if not .Values.tls.clientCa }}true{{ end }}
{{- end }}

{{/* What a probe's httpGet has where the server speaks TLS. The kubelet does not verify the certificate. */}}
{{- define "antipode.probeScheme" -}}
{{- if .Values.tls.secret }}, scheme: HTTPS{{ end }}
{{- end }}

{{- define "antipode.environment" -}}
{{- $follower := .follower }}
{{- with .root }}
{{- $v := .Values -}}
{{- $set := dict
  "ANTIPODE_MAX_NUM_SEQS" $v.server.maxNumSeqs
  "ANTIPODE_MAX_MODEL_LEN" $v.server.maxModelLen
  "ANTIPODE_TENSOR_PARALLEL_SIZE" $v.server.tensorParallelSize
  "ANTIPODE_DATA_PARALLEL_SIZE" $v.server.dataParallelSize
  "ANTIPODE_WEIGHT_DTYPE" $v.server.weightDtype
  "ANTIPODE_KV_DTYPE" $v.server.kvDtype
  "ANTIPODE_LAME_DUCK_SECONDS" $v.server.lameDuckSeconds
  "ANTIPODE_DRAIN_TIMEOUT_SECONDS" $v.server.drainTimeoutSeconds
  "ANTIPODE_HANG_TIMEOUT_SECONDS" $v.server.hangTimeoutSeconds
  "ANTIPODE_LOG_FORMAT" $v.server.logFormat
  "ANTIPODE_HOST" "0.0.0.0"
  "ANTIPODE_COMPILE_CACHE_DIR" "/var/cache/antipode/xla" -}}
{{- if eq $v.swap.mode "inPlace" }}
{{- $_ := set $set "ANTIPODE_MODEL_CONFIG" "/etc/antipode/model.yaml" }}
{{- else }}
{{- /* A pod keeps its environment variables when its container restarts. A mounted file could change meanwhile. */}}
{{- $_ := set $set "ANTIPODE_MODEL" (printf "%s/%s" (include "antipode.modelPath" . | trimSuffix "/") $v.model.version) }}
{{- $_ := set $set "ANTIPODE_SERVED_MODEL_NAME" $v.model.name }}
{{- $_ := set $set "ANTIPODE_SWAP_POLICY" $v.swap.policy }}
{{- end }}
{{- if include "antipode.isTpu" . }}
{{- $slice := include "antipode.slice" . | fromYaml }}
{{- if not $v.sliceAlternatives }}
{{- $_ := set $set "ANTIPODE_SLICE_ACCELERATOR" $slice.generation }}
{{- end }}
{{- $_ := set $set "ANTIPODE_SLICE_TOPOLOGY" $slice.topology }}
{{- $_ := set $set "ANTIPODE_SLICE_CHIPS" (include "antipode.chips" .) }}
{{- end }}
{{- if gt (include "antipode.hosts" . | int) 1 }}
{{- $_ := set $set "ANTIPODE_GROUP_PORT" $v.server.groupPort }}
{{- $_ := set $set "ANTIPODE_GROUP_SECRET_FILE" "/etc/antipode-group/secret" }}
{{- $_ := set $set "ANTIPODE_GROUP_TIMEOUT_SECONDS" $v.server.groupTimeoutSeconds }}
{{- $_ := set $set "ANTIPODE_GROUP_START_TIMEOUT_SECONDS" $v.server.groupStartTimeoutSeconds }}
{{- end }}
{{- if and $v.admin.tokenSecret (not $follower) }}
{{- $_ := set $set "ANTIPODE_ADMIN_HOST" "0.0.0.0" }}
{{- $_ := set $set "ANTIPODE_ADMIN_TOKEN_FILE" "/etc/antipode-admin/token" }}
{{- end }}
{{- if and $v.apiKeys.secret (not $follower) }}
{{- $_ := set $set "ANTIPODE_API_KEYS_FILE" "/etc/antipode-keys/keys" }}
{{- end }}
{{- if and $v.tls.secret (not $follower) }}
{{- $_ := set $set "ANTIPODE_TLS_CERT_FILE" "/etc/antipode-tls/tls.crt" }}
{{- $_ := set $set "ANTIPODE_TLS_KEY_FILE" "/etc/antipode-tls/tls.key" }}
{{- if $v.tls.clientCa }}
{{- $_ := set $set "ANTIPODE_TLS_CLIENT_CA_FILE" "/etc/antipode-tls/ca.crt" }}
{{- end }}
{{- end }}
{{- $objectives := list }}
{{- range $objective := $v.objectives }}
{{- range $pool := list "http" "grpc" }}
{{- $objectives = append $objectives (printf "%s-%s-%s=%d" $.root.Release.Name $objective.name $pool (int64 $objective.priority)) }}
{{- end }}
{{- end }}
{{- with $objectives }}
{{- $_ := set $set "ANTIPODE_OBJECTIVES" (join "," .) }}
{{- end }}
{{- if $v.dranet.enabled }}
{{- $_ := set $set "ANTIPODE_CLAIM_NAME" (include "antipode.claim" .) }}
{{- $_ := set $set "ANTIPODE_INTERFACE_CLASS" $v.dranet.deviceClassName }}
{{- end }}
{{- if include "antipode.hasChipClaim" . }}
{{- $_ := set $set "ANTIPODE_CHIP_CLAIM_NAME" (include "antipode.claim" .) }}
{{- end }}
{{- range $key, $value := $v.server.extra }}
{{- $_ := set $set (printf "ANTIPODE_%s" (upper $key)) $value }}
{{- end }}
{{- if include "antipode.hasCoordinatorSecret" . }}
{{- /* JAX reads these. The last one forbids it to go on without them. */}}
{{- $_ := set $set "JAX_MTLS_CERT_FILE" "/etc/antipode-coordinator/tls.crt" }}
{{- $_ := set $set "JAX_MTLS_KEY_FILE" "/etc/antipode-coordinator/tls.key" }}
{{- $_ := set $set "JAX_MTLS_CA_FILE" "/etc/antipode-coordinator/ca.crt" }}
{{- $_ := set $set "JAX_MTLS_PEER_URI_PREFIX" "spiffe://antipode/" }}
{{- $_ := set $set "JAX_DISTRIBUTED_VERIFY_SECURE_CREDENTIALS" "true" }}
{{- end }}
{{- range $name, $value := $set }}
- name: {{ $name | quote }}
  value: {{ include "antipode.text" $value | quote }}
{{- end }}
{{- with $v.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "antipode.pod" -}}
{{- $follower := .follower }}
{{- with .root }}
{{- $v := .Values -}}
metadata:
  labels:
    {{- include "antipode.labels" . | nindent 4 }}
    app.kubernetes.io/component: server
    {{- if not $follower }}
    {{- include "antipode.plainLabel" . | nindent 4 }}
    {{- end }}
    {{- with $v.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    {{- with $v.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
    {{- if $v.model.bucket }}
    gke-gcsfuse/volumes: "true"
    gke-gcsfuse/cpu-limit: {{ $v.fuse.sidecarCpu | quote }}
    gke-gcsfuse/memory-limit: {{ $v.fuse.sidecarMemory | quote }}
    gke-gcsfuse/ephemeral-storage-limit: "0"
    {{- end }}
spec:
  serviceAccountName: {{ include "antipode.serviceAccount" . | quote }}
  {{- with include "antipode.pullSecrets" . }}{{ . | trim | nindent 2 }}{{ end }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  automountServiceAccountToken: {{ ternary "true" "false" (ne $v.model.bucket "") }}
  terminationGracePeriodSeconds: {{ include "antipode.gracePeriod" . }}
  enableServiceLinks: false
  securityContext:
    runAsNonRoot: {{ not $v.security.asRoot }}
    runAsUser: {{ ternary 0 10001 $v.security.asRoot }}
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile:
      type: RuntimeDefault
  {{- if include "antipode.computeClass" . }}
  nodeSelector:
    cloud.google.com/compute-class: {{ include "antipode.computeClass" . | quote }}
    {{- with $v.nodeSelector }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- else if include "antipode.isTpu" . }}
  {{- $slice := include "antipode.slice" . | fromYaml }}
  nodeSelector:
    {{- if not $v.sliceAlternatives }}
    cloud.google.com/gke-tpu-accelerator: {{ $slice.accelerator }}
    {{- end }}
    cloud.google.com/gke-tpu-topology: {{ $slice.topology }}
    {{- if include "antipode.hasChipClaim" . }}
    cloud.google.com/gke-tpu-dra-driver: "true"
    {{- end }}
    {{- with $v.nodeSelector }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- else if $v.nodeSelector }}
  nodeSelector: {{- toYaml $v.nodeSelector | nindent 4 }}
  {{- end }}
  {{- if or $v.tolerations (include "antipode.hasChipClaim" .) }}
  tolerations:
    {{- if include "antipode.hasChipClaim" . }}
    # Where a pod requests google.com/tpu, admission adds this toleration; a claim gets none.
    - {key: google.com/tpu, operator: Exists, effect: NoSchedule}
    {{- end }}
    {{- with $v.tolerations }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- end }}
  {{- with $v.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $v.topologySpreadConstraints }}
  topologySpreadConstraints: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if include "antipode.hasClaim" . }}
  resourceClaims:
    - name: {{ include "antipode.claimInPod" . | quote }}
      resourceClaimTemplateName: {{ include "antipode.claim" . | quote }}
  {{- end }}
  containers:
    - name: server
      image: {{ include "antipode.image" . | quote }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      args: [serve]
      env: {{- include "antipode.environment" (dict "root" . "follower" $follower) | trim | nindent 8 }}
      {{- if not $follower }}
      ports:
        - name: http
          containerPort: 8000
        - name: grpc
          containerPort: 9000
        {{- if $v.admin.tokenSecret }}
        - name: admin-http
          containerPort: 8001
        - name: admin-grpc
          containerPort: 9001
        {{- end }}
        {{- if gt (include "antipode.hosts" . | int) 1 }}
        - name: group
          containerPort: {{ int64 $v.server.groupPort }}
        - name: coordinator
          containerPort: {{ add $v.server.groupPort 1 }}
        {{- end }}
        {{- if include "antipode.isTpu" . }}
        - name: tpu-metrics
          containerPort: 8431
        {{- end }}
      # The server is alive from its first moment, also while it compiles. Only a hung server fails this check.
      startupProbe:
        httpGet: {path: /readyz, port: http{{ include "antipode.probeScheme" . }}}
        periodSeconds: 5
        failureThreshold: {{ div (add $v.startupSeconds 4) 5 }}
      readinessProbe:
        httpGet: {path: /readyz, port: http{{ include "antipode.probeScheme" . }}}
        periodSeconds: 2
        # One slow answer must not take a replica out: it may be the only one of its region. The load balancer's own
        # checks see a drain.
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /livez, port: http{{ include "antipode.probeScheme" . }}}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
          {{- if $v.security.asRoot }}
          add: [SYS_RESOURCE]
          {{- end }}
      resources:
        requests:
          cpu: {{ $v.resources.cpu | quote }}
          memory: {{ $v.resources.memory | quote }}
          ephemeral-storage: {{ $v.resources.ephemeralStorage | quote }}
          {{- if and (include "antipode.isTpu" .) (not (include "antipode.hasChipClaim" .)) }}
          google.com/tpu: {{ (include "antipode.slice" . | fromYaml).chips | quote }}
          {{- end }}
        limits:
          memory: {{ $v.resources.memory | quote }}
          {{- with $v.resources.cpuLimit }}
          cpu: {{ . | quote }}
          {{- end }}
          {{- if and (include "antipode.isTpu" .) (not (include "antipode.hasChipClaim" .)) }}
          google.com/tpu: {{ (include "antipode.slice" . | fromYaml).chips | quote }}
          {{- end }}
        {{- if include "antipode.hasClaim" . }}
        claims:
          - name: {{ include "antipode.claimInPod" . | quote }}
        {{- end }}
      volumeMounts:
        {{- if eq $v.swap.mode "inPlace" }}
        - name: model-config
          mountPath: /etc/antipode
          readOnly: true
        {{- end }}
        {{- if and $v.admin.tokenSecret (not $follower) }}
        - name: admin
          mountPath: /etc/antipode-admin
          readOnly: true
        {{- end }}
        {{- if and $v.apiKeys.secret (not $follower) }}
        - name: api-keys
          mountPath: /etc/antipode-keys
          readOnly: true
        {{- end }}
        {{- if and $v.tls.secret (not $follower) }}
        - name: tls
          mountPath: /etc/antipode-tls
          readOnly: true
        {{- end }}
        {{- if gt (include "antipode.hosts" . | int) 1 }}
        - name: group
          mountPath: /etc/antipode-group
          readOnly: true
        {{- end }}
        {{- if include "antipode.hasCoordinatorSecret" . }}
        - name: coordinator
          mountPath: /etc/antipode-coordinator
          readOnly: true
        {{- end }}
        - name: cache
          mountPath: /var/cache/antipode
        - name: tmp
          mountPath: /tmp
        - name: shm
          mountPath: /dev/shm
        {{- if $v.model.bucket }}
        - name: models
          mountPath: /models{{ with $v.fuse.onlyDir }}/{{ . }}{{ end }}
          readOnly: true
        {{- end }}
  volumes:
    {{- if eq $v.swap.mode "inPlace" }}
    # The whole folder is mounted: the kubelet does not update a single mounted file in running pods.
    - name: model-config
      configMap:
        name: "{{ .Release.Name }}-model"
    {{- end }}
    {{- if and $v.admin.tokenSecret (not $follower) }}
    - name: admin
      secret:
        secretName: {{ $v.admin.tokenSecret | quote }}
        items:
          - {key: token, path: token}
    {{- end }}
    {{- if and $v.apiKeys.secret (not $follower) }}
    - name: api-keys
      secret:
        secretName: {{ $v.apiKeys.secret | quote }}
        defaultMode: 0400
        items:
          - {key: keys, path: keys}
    {{- end }}
    {{- if and $v.tls.secret (not $follower) }}
    - name: tls
      secret:
        secretName: {{ $v.tls.secret | quote }}
        defaultMode: 0400
        items:
          - {key: tls.crt, path: tls.crt}
          - {key: tls.key, path: tls.key}
          {{- if $v.tls.clientCa }}
          - {key: ca.crt, path: ca.crt}
          {{- end }}
    {{- end }}
    {{- if gt (include "antipode.hosts" . | int) 1 }}
    # The kubelet also lets fsGroup read it, which is how the server's user does.
    - name: group
      secret:
        secretName: {{ $v.server.groupSecret | quote }}
        defaultMode: 0400
        items:
          - {key: secret, path: secret}
    {{- end }}
    {{- if include "antipode.hasCoordinatorSecret" . }}
    - name: coordinator
      secret:
        secretName: {{ $v.server.coordinatorSecret | quote }}
        defaultMode: 0400
        items:
          - {key: tls.crt, path: tls.crt}
          - {key: tls.key, path: tls.key}
          - {key: ca.crt, path: ca.crt}
    {{- end }}
    - name: cache
      {{- if $v.compileCache.storageClass }}
      persistentVolumeClaim:
        claimName: "{{ .Release.Name }}-compile-cache"
      {{- else }}
      emptyDir:
        sizeLimit: {{ $v.compileCache.size | quote }}
      {{- end }}
    - name: tmp
      emptyDir: {}
    - name: shm
      emptyDir:
        medium: Memory
    {{- if $v.model.bucket }}
    - name: gke-gcsfuse-cache
      emptyDir:
        medium: Memory
        sizeLimit: {{ $v.fuse.fileCache | quote }}
    - name: models
      csi:
        driver: gcsfuse.csi.storage.gke.io
        readOnly: true
        volumeAttributes:
          bucketName: {{ $v.model.bucket | quote }}
          mountOptions: "implicit-dirs,uid=10001,gid=10001,file-cache:enable-parallel-downloads:true{{ with $v.fuse.onlyDir }},only-dir={{ . }}{{ end }}"
          fileCacheCapacity: {{ $v.fuse.fileCache | quote }}
          fileCacheForRangeRead: "true"
          metadataCacheTTLSeconds: {{ int64 $v.fuse.metadataTtlSeconds | quote }}
          skipCSIBucketAccessCheck: "true"
    {{- end }}
{{- end }}
{{- end }}
