{{/* Refuses values that contradict each other, which no schema can do. Each message says what to change. */}}

{{- define "antipode.validate" -}}
{{- range $part := list "names" "model" "slice" "hosts" "machine" "end" "spot" "scaling" "network" "secret" "tls" }}
{{- include (printf "antipode.validate.%s" $part) $ }}
{{- end }}
{{- end }}

{{/* Names of objects and labels. */}}
{{- define "antipode.validate.names" -}}
{{- $v := .Values -}}
{{- if not $v.image.repository }}
{{- fail "image.repository is empty; set it to the registry and name that you pushed the image to, without the tag." }}
{{- end }}
{{- if or (contains "@" $v.image.repository) (contains ":" (base $v.image.repository)) }}
{{- fail (printf "image.repository is %q; move the part after the name into image.tag or image.digest." $v.image.repository) }}
{{- end }}
{{- if or (gt (len .Release.Name) 48) (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .Release.Name)) }}
{{- fail (printf "the release name is %q; use at most 48 lowercase letters, digits and -, beginning with a letter and not ending in -, because Services are named after it." .Release.Name) }}
{{- end }}
{{- if regexMatch "-(picker|group-[0-9]+)$" .Release.Name }}
{{- fail (printf "the release name is %q, and a release of the name before %s makes objects of that name; use a name that does not end so." .Release.Name (regexFind "-(picker|group-[0-9]+)$" .Release.Name)) }}
{{- end }}
{{- $own := list
  "antipode-server"
  "grafana_dashboard"
  "gke.io/region"
  "gke-gcsfuse/volumes"
  "gke-gcsfuse/cpu-limit"
  "gke-gcsfuse/memory-limit"
  "gke-gcsfuse/ephemeral-storage-limit"
  "cloud.google.com/compute-class"
  "cloud.google.com/gke-tpu-accelerator"
  "cloud.google.com/gke-tpu-topology"
  "cloud.google.com/gke-tpu-dra-driver" }}
{{- range $where := list "commonLabels" "podLabels" "podAnnotations" "nodeSelector" }}
{{- range $key, $_ := index $v $where }}
{{- if or (has $key $own) (regexMatch "^(app.kubernetes.io|leaderworkerset.sigs.k8s.io)/" $key) }}
{{- fail (printf "%s sets %s, which the chart sets from other values (slice, computeClass, region, model, the release); leave it out." $where $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $key, $_ := $v.commonLabels }}
{{- if hasKey $v.podLabels $key }}
{{- fail (printf "commonLabels and podLabels both set %s; leave it out of one." $key) }}
{{- end }}
{{- end }}
{{- range $v.extraEnv }}
{{- if regexMatch "^(ANTIPODE_|JAX_MTLS_|JAX_DISTRIBUTED_)" .name }}
{{- fail (printf "extraEnv sets %s, which is a setting of the server; use the value for it, or server.extra." .name) }}
{{- end }}
{{- if regexMatch "^(LWS_|TPU_(ACCELERATOR_TYPE|CHIPS_PER|DEVICE_|HOST_BOUNDS|NAME$|PROCESS_|SKIP_MDS|TOPOLOGY|VISIBLE|WORKER_))" .name }}
{{- fail (printf "extraEnv sets %s, which says what slice a pod has and comes from the platform; leave it out, and choose the slice by slice." .name) }}
{{- end }}
{{- end }}
{{- include "antipode.validate.once" (dict "where" "extraEnv" "items" $v.extraEnv) }}
{{- include "antipode.validate.once" (dict "where" "objectives" "items" $v.objectives) }}
{{- range $v.objectives }}
{{- if contains "-" .name }}
{{- fail (printf "objectives has %q; use a name without -, because the objective is named %s-%s-http, and that could be one of another release." .name $.Release.Name .name) }}
{{- end }}
{{- end }}
{{- if and (not $v.serviceAccount.create) (not $v.serviceAccount.name) }}
{{- fail "serviceAccount.create is false, but serviceAccount.name is empty; set serviceAccount.name to the account that exists." }}
{{- end }}
{{- if eq $v.serviceAccount.name (printf "%s-picker" .Release.Name) }}
{{- fail (printf "serviceAccount.name is %q, which is the name of the endpoint pickers' account; use another name." $v.serviceAccount.name) }}
{{- end }}
{{- end }}

{{/* Of a list of named things, (dict "where" "objectives" "items" LIST), no two have one name. */}}
{{- define "antipode.validate.once" -}}
{{- $names := list }}
{{- range .items }}
{{- if has .name $names }}
{{- fail (printf "%s has %s twice; leave one out." $.where .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- end }}

{{/* The model and its versions. */}}
{{- define "antipode.validate.model" -}}
{{- $v := .Values -}}
{{- if not (and $v.model.name $v.model.path $v.model.version) }}
{{- fail "model.name, model.path and model.version must all be set: the server serves the folder <path>/<version> under the name." }}
{{- end }}
{{- if regexMatch "(^|/)[0-9]+/?$" $v.model.path }}
{{- fail (printf "model.path %q ends in a version; set model.path to the folder with all versions, and model.version to the version." $v.model.path) }}
{{- end }}
{{- if hasPrefix "gs://" (printf "%s%s" $v.model.bucket $v.model.path) }}
{{- fail "model.bucket or model.path begins with gs://; leave it out: model.bucket is the bucket's name, model.path a folder in it." }}
{{- end }}
{{- range $name, $path := dict "model.path" $v.model.path "fuse.onlyDir" $v.fuse.onlyDir }}
{{- if regexMatch "(^|/)[.][.](/|$)" $path }}
{{- fail (printf "%s is %q, which leaves the bucket; write it without \"..\"." $name $path) }}
{{- end }}
{{- end }}
{{- if and $v.fuse.onlyDir (not $v.model.bucket) }}
{{- fail "fuse.onlyDir is set, but model.bucket is empty, so nothing is mounted; leave fuse.onlyDir empty." }}
{{- end }}
{{- if and $v.fuse.onlyDir (not (hasPrefix (printf "%s/" $v.fuse.onlyDir) (printf "%s/" $v.model.path))) }}
{{- fail (printf "fuse.onlyDir is %q, but model.path is %q, outside of it; use a folder that contains model.path." $v.fuse.onlyDir $v.model.path) }}
{{- end }}
{{- if and $v.model.labels (eq $v.swap.mode "rollout") }}
{{- fail "model.labels is set, but swap.mode is rollout, and pods load labelled versions only with inPlace; leave it empty with rollout." }}
{{- end }}
{{- end }}

{{/* Chips, network interfaces and nodes. */}}
{{- define "antipode.validate.slice" -}}
{{- $v := .Values -}}
{{- $hosts := include "antipode.hosts" . | int }}
{{- if and (include "antipode.isTpu" .) (not (include "antipode.slice" .)) }}
{{- fail (printf "slice %q is not supported by this chart; use %s, or cpu." $v.slice (include "antipode.slices" . | fromYaml | keys | sortAlpha | join ", ")) }}
{{- end }}
{{- if include "antipode.isTpu" . }}
{{- $slice := include "antipode.slice" . | fromYaml }}
{{- $chips := include "antipode.chips" . | int }}
{{- $tp := int $v.server.tensorParallelSize }}
{{- if and $tp (ne (mod $chips $tp) 0) }}
{{- fail (printf "server.tensorParallelSize is %d, which does not divide the %d chips of %s; use a divisor, or 0 for the fewest chips that hold the model." $tp $chips $v.slice) }}
{{- end }}
{{- $dp := int $v.server.dataParallelSize }}
{{- if and $tp (gt (mul $tp $dp | int) $chips) }}
{{- fail (printf "server.tensorParallelSize is %d and server.dataParallelSize is %d, which need more than the %d chips of %s; set dataParallelSize to 0 to use all chips." $tp $dp $chips $v.slice) }}
{{- end }}
{{- if and $tp $dp (le (mul $tp $dp | int) (mul $slice.chips (sub $hosts 1) | int)) }}
{{- fail (printf "server.tensorParallelSize is %d and server.dataParallelSize is %d, which leaves hosts of %s without a chip to use; use a slice of fewer hosts, or set dataParallelSize to 0 to use all chips." $tp $dp $v.slice) }}
{{- end }}
{{- if and $v.dranet.enabled (not (has $slice.generation (list "v6e" "v7x"))) }}
{{- fail (printf "dranet.enabled is true, but the slice is %s, and GKE offers DRANET interfaces on v6e and v7x only; set dranet.enabled to false." $v.slice) }}
{{- end }}
{{- else if $v.dranet.enabled }}
{{- fail "dranet.enabled is true, but the slice is cpu; set dranet.enabled to false." }}
{{- end }}
{{- if and (eq $v.sliceChips "claim") (not (include "antipode.isTpu" .)) }}
{{- fail "sliceChips is claim, but the slice is cpu, which has no chips to claim; set sliceChips to devicePlugin." }}
{{- end }}
{{- if and $v.sliceAlternatives (ne $v.sliceChips "claim") }}
{{- fail "sliceAlternatives is set, but sliceChips is devicePlugin, which cannot choose; set sliceChips to claim, or leave sliceAlternatives empty." }}
{{- end }}
{{- range $v.sliceAlternatives }}
{{- $row := index (include "antipode.slices" $ | fromYaml) . | default dict }}
{{- if or (eq . $v.slice) (not $row) (hasKey $row "hosts") (ne (last (splitList ":" .)) (last (splitList ":" $v.slice))) }}
{{- fail (printf "sliceAlternatives has %q; use slices of one host with the topology of %s and another generation." . $v.slice) }}
{{- end }}
{{- if and $v.dranet.enabled (not (has (first (splitList ":" .)) (list "v6e" "v7x"))) }}
{{- fail (printf "dranet.enabled is true, but sliceAlternatives has %s, and GKE offers DRANET interfaces on v6e and v7x only; set dranet.enabled to false." .) }}
{{- end }}
{{- end }}
{{- if and (eq $v.sliceChips "claim") (gt $hosts 1) }}
{{- fail (printf "sliceChips is claim, but %s has %d hosts, and LeaderWorkerSet names the hosts to libtpu only in pods that request google.com/tpu; set sliceChips to devicePlugin." $v.slice $hosts) }}
{{- end }}
{{- if and (eq $v.sliceChips "claim") $v.computeClass.create }}
{{- fail "sliceChips is claim, but computeClass.create is true, and nodes of that class lack the label cloud.google.com/gke-tpu-dra-driver=true; set computeClass.create to false and make the node pool yourself." }}
{{- end }}
{{- if and $v.computeClass.create (not (include "antipode.isTpu" .)) }}
{{- fail "computeClass.create is true, but the slice is cpu, and the class is made from a TPU slice; set computeClass.create to false." }}
{{- end }}
{{- if and $v.computeClass.create (not $v.computeClass.serviceAccount) }}
{{- fail "computeClass.create is true, but computeClass.serviceAccount is empty, so nodes would run as the project's default account; set it to the nodes' account, such as node_account of Terraform, or to default if you want that one." }}
{{- end }}
{{- if and $v.computeClass.serviceAccount (not $v.computeClass.create) }}
{{- fail "computeClass.serviceAccount is set, but computeClass.create is false, so no nodes would run as it; leave it empty." }}
{{- end }}
{{- if and $v.computeClass.create (has "reservation" $v.computeClass.priorities) (not $v.computeClass.reservation) }}
{{- fail "computeClass.priorities has reservation, but no reservation is named; set computeClass.reservation to its name." }}
{{- end }}
{{- if and $v.computeClass.reservation (not (has "reservation" $v.computeClass.priorities)) }}
{{- fail "computeClass.reservation is set, but computeClass.priorities has no reservation, so it would not be used; add reservation to the priorities." }}
{{- end }}
{{- if and (eq $v.dranet.allocationMode "ExactCount") (lt (int $v.dranet.count) 1) }}
{{- fail "dranet.allocationMode is ExactCount, but dranet.count is less than 1; set dranet.count to the number of interfaces." }}
{{- end }}
{{- if and (eq $v.dranet.allocationMode "All") (gt (int $v.dranet.count) 0) }}
{{- fail "dranet.count is set, but dranet.allocationMode is All; set the mode to ExactCount, or the count to 0." }}
{{- end }}
{{- end }}

{{/* The group of hosts of a multi-host slice. */}}
{{- define "antipode.validate.hosts" -}}
{{- $v := .Values -}}
{{- $hosts := include "antipode.hosts" . | int }}
{{- if and (gt $hosts 1) $v.compileCache.storageClass }}
{{- fail (printf "compileCache.storageClass makes one volume claim, which only one pod can mount, and %s has %d hosts; leave it empty." $v.slice $hosts) }}
{{- end }}
{{- range $port := list (int $v.server.groupPort) (add $v.server.groupPort 1 | int) }}
{{- if has $port (list 8000 8001 8431 8471 8476 9000 9001) }}
{{- fail (printf "server.groupPort is %d, and the group uses that port and the next, but %d is a port of the server or of libtpu; use another port, such as 9200." (int $v.server.groupPort) $port) }}
{{- end }}
{{- end }}
{{- if and (gt $hosts 1) (ge (int $v.server.groupStartTimeoutSeconds) (int $v.startupSeconds)) }}
{{- fail (printf "server.groupStartTimeoutSeconds is %d, but startupSeconds is %d, so the kubelet would restart the leader before it can log which hosts are missing; raise startupSeconds above groupStartTimeoutSeconds." (int $v.server.groupStartTimeoutSeconds) (int $v.startupSeconds)) }}
{{- end }}
{{- end }}

{{/* What the hosts of a group prove themselves by. */}}
{{- define "antipode.validate.secret" -}}
{{- $v := .Values -}}
{{- $hosts := include "antipode.hosts" . | int }}
{{- if and (gt $hosts 1) (not $v.server.groupSecret) }}
{{- fail (printf "server.groupSecret is empty, but %s has %d hosts, which prove themselves to each other by a secret; create a Secret whose key secret has at least 16 random characters, and set server.groupSecret to its name." $v.slice $hosts) }}
{{- end }}
{{- end }}

{{/* Whether the machines of the slice, and of its alternatives, have room for a pod. */}}
{{- define "antipode.validate.machine" -}}
{{- $v := .Values -}}
{{- if include "antipode.isTpu" . }}
{{- $memory := include "antipode.mebibytes" $v.resources.memory | int64 }}
{{- $cache := ternary (include "antipode.mebibytes" $v.fuse.fileCache | int64) 0 (ne $v.model.bucket "") }}
{{- range $name := concat (list $v.slice) $v.sliceAlternatives }}
{{- $machine := (index (include "antipode.slices" $ | fromYaml) $name).machine }}
{{- $room := index (include "antipode.machines" $ | fromYaml) $machine }}
{{- if gt (include "antipode.milliCpus" $v.resources.cpu | int64) (mul $room.cpus 1000) }}
{{- fail (printf "resources.cpu is %s, but %s, the machine of %s, leaves pods %d CPUs; lower resources.cpu." $v.resources.cpu $machine $name (int $room.cpus)) }}
{{- end }}
{{- if gt (add $memory $cache) (mul $room.memory 1024) }}
{{- fail (printf "resources.memory is %s and fuse.fileCache, which is in memory too, is %s, but %s, the machine of %s, leaves pods %d GiB; lower them." $v.resources.memory (ternary $v.fuse.fileCache "unused" (ne $v.model.bucket "")) $machine $name (int $room.memory)) }}
{{- end }}
{{- end }}
{{- end }}
{{- if lt (include "antipode.mebibytes" $v.picker.memoryLimit | int64) (include "antipode.mebibytes" $v.picker.memory | int64) }}
{{- fail (printf "picker.memoryLimit is %s, less than picker.memory, %s; raise the limit or lower the request." $v.picker.memoryLimit $v.picker.memory) }}
{{- end }}
{{- range $where := list "resources" "picker" }}
{{- with (index $v $where).cpuLimit }}
{{- if lt (include "antipode.milliCpus" . | int64) (include "antipode.milliCpus" (index $v $where).cpu | int64) }}
{{- fail (printf "%s.cpuLimit is %s, less than %s.cpu, %s; raise the limit or lower the request." $where . $where (index $v $where).cpu) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* How a pod ends. */}}
{{- define "antipode.validate.end" -}}
{{- $v := .Values -}}
{{- $end := add $v.server.lameDuckSeconds $v.server.drainTimeoutSeconds }}
{{- $grace := include "antipode.gracePeriod" . | int }}
{{- if le $grace (int $end) }}
{{- fail (printf "terminationGracePeriodSeconds is %d, but a drain may take %d seconds (server.lameDuckSeconds + server.drainTimeoutSeconds); allow at least %d, or leave it at 0." $grace (int $end) (add $end 10)) }}
{{- end }}
{{- end }}

{{/* The number of replicas, and the storage of each. */}}
{{- define "antipode.validate.scaling" -}}
{{- $v := .Values -}}
{{- if and (eq (int $v.replicas) 0) $v.autoscaling.enabled }}
{{- fail "replicas is 0, but autoscaling.enabled is true, and the autoscaler keeps minReplicas; set autoscaling.enabled to false to empty the region." }}
{{- end }}
{{- if and $v.autoscaling.enabled (lt (int $v.autoscaling.maxReplicas) (int $v.autoscaling.minReplicas)) }}
{{- fail (printf "autoscaling.maxReplicas is %d, less than minReplicas, %d; raise maxReplicas or lower minReplicas." (int $v.autoscaling.maxReplicas) (int $v.autoscaling.minReplicas)) }}
{{- end }}
{{- if and $v.autoscaling.enabled $v.compileCache.storageClass }}
{{- fail "autoscaling.enabled needs a compile cache for each pod, but compileCache.storageClass makes one volume claim for all; leave it empty." }}
{{- end }}
{{- if and $v.autoscaling.enabled (ne $v.autoscalingMetric.shape "metrics") }}
{{- fail (printf "autoscaling.enabled is true, but autoscalingMetric.shape is %s, which feeds the gateway only; set the shape to metrics, on a cluster that supports it." $v.autoscalingMetric.shape) }}
{{- end }}
{{- if and (gt (int $v.replicas) 1) $v.compileCache.storageClass }}
{{- fail "compileCache.storageClass makes one volume claim, which only one pod can mount; leave it empty with several replicas." }}
{{- end }}
{{- end }}

{{/* Access to the server, and its monitoring. */}}
{{- define "antipode.validate.network" -}}
{{- $v := .Values -}}
{{- if and $v.networkPolicy.enabled (or $v.pools.http.enabled $v.pools.grpc.enabled $v.service.export) (not $v.networkPolicy.proxyRanges) }}
{{- fail "networkPolicy.proxyRanges is empty, but the gateway's requests come from the proxy-only subnets of both regions; list their ranges, or set networkPolicy.enabled to false." }}
{{- end }}
{{- range $pool := list "http" "grpc" }}
{{- if and (eq $pool "grpc") $v.pools.grpc.enabled (not $v.pools.appProtocol) }}
{{- fail "pools.grpc.enabled is true, but pools.appProtocol is false, so a gateway would speak HTTP/1.1 to the gRPC port; set pools.appProtocol to true on a cluster whose InferencePool has the field, or use service.export for gRPC." }}
{{- end }}
{{- if and (index $v.pools $pool).enabled (not $v.picker.enabled) (not (index $v.picker.existing $pool)) }}
{{- fail (printf "pools.%s is enabled without an endpoint picker; set picker.enabled to true, or picker.existing.%s to the Service of a picker." $pool $pool) }}
{{- end }}
{{- end }}
{{- if and (eq $v.picker.grpcParser "vllmgrpc") (not (has "grpc" (include "antipode.pickers" . | fromJsonArray))) }}
{{- fail "picker.grpcParser is vllmgrpc, but this release has no picker for gRPC; set pools.grpc.enabled to true, or leave it at passthrough." }}
{{- end }}
{{- if and (ne $v.service.type "ClusterIP") $v.networkPolicy.enabled (not $v.networkPolicy.clientRanges) }}
{{- fail (printf "service.type is %s, but the network policy admits no client from outside of the cluster; list the clients' ranges in networkPolicy.clientRanges." $v.service.type) }}
{{- end }}
{{- if and (eq $v.service.type "LoadBalancer") (not $v.service.annotations) }}
{{- fail "service.type is LoadBalancer, but the server does not authenticate clients; set service.annotations to the annotation that keeps the address internal in your cloud, such as {networking.gke.io/load-balancer-type: Internal}." }}
{{- end }}
{{- $isTraced := eq (toString (index $v.server.extra "tracing")) "true" }}
{{- range $v.extraEnv }}
{{- if eq .name "OTEL_TRACES_EXPORTER" }}
{{- $isTraced = false }}
{{- end }}
{{- end }}
{{- if and $isTraced $v.networkPolicy.enabled (not $v.networkPolicy.egressNamespaces) (not $v.networkPolicy.egressRanges) }}
{{- fail "server.extra.tracing is true, but the network policy lets no span reach a collector; list its namespace in networkPolicy.egressNamespaces or, outside of the cluster, its range in networkPolicy.egressRanges." }}
{{- end }}
{{- if and $v.monitoring.rules (not $v.monitoring.podMonitoring) }}
{{- fail "monitoring.rules is true, but monitoring.podMonitoring is false, and the rules need a label that PodMonitoring sets; set both or neither." }}
{{- end }}
{{- end }}

{{/* TLS at the pods. */}}
{{- define "antipode.validate.tls" -}}
{{- $v := .Values -}}
{{- if and $v.tls.clientCa (not $v.tls.secret) }}
{{- fail "tls.clientCa is true, but tls.secret is empty; set tls.secret to a Secret with tls.crt, tls.key and ca.crt." }}
{{- end }}
{{- if $v.tls.secret }}
{{- if or $v.pools.http.enabled $v.pools.grpc.enabled }}
{{- fail "tls.secret is set, but a pool is enabled, whose gateway speaks plain HTTP to pods; set pools.http.enabled and pools.grpc.enabled to false, or leave tls.secret empty." }}
{{- end }}
{{- if or $v.pools.export $v.service.export $v.autoscaling.enabled }}
{{- fail "tls.secret is set, but AutoscalingMetric reads pods over plain HTTP; set pools.export, service.export and autoscaling.enabled to false, or leave tls.secret empty." }}
{{- end }}
{{- end }}
{{- end }}
