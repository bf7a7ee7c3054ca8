{{/* What no schema can say: values that contradict each other, each with what to change. */}}

{{- define "antipode.validate" -}}
{{- range $part := list "names" "model" "slice" "hosts" "end" "scaling" "network" }}
{{- include (printf "antipode.validate.%s" $part) $ }}
{{- end }}
{{- end }}

{{/* What things are called. */}}
{{- define "antipode.validate.names" -}}
{{- $v := .Values -}}
{{- if not $v.image.repository }}
{{- fail "image.repository is empty; set it to where you pushed the image, without the tag." }}
{{- end }}
{{- if or (contains "@" $v.image.repository) (contains ":" (base $v.image.repository)) }}
{{- fail (printf "image.repository is %q; put what follows the name into image.tag or image.digest." $v.image.repository) }}
{{- end }}
{{- if or (gt (len .Release.Name) 48) (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .Release.Name)) }}
{{- fail (printf "the release is called %q; Services are named after it, so it must begin with a letter, have letters, digits and - alone, and 48 of them at most." .Release.Name) }}
{{- end }}
{{- $own := list
  "gke.io/region"
  "gke-gcsfuse/volumes"
  "gke-gcsfuse/cpu-limit"
  "gke-gcsfuse/memory-limit"
  "gke-gcsfuse/ephemeral-storage-limit"
  "cloud.google.com/compute-class"
  "cloud.google.com/gke-tpu-accelerator"
  "cloud.google.com/gke-tpu-topology" }}
{{- range $where := list "podLabels" "podAnnotations" "nodeSelector" }}
{{- range $key, $_ := index $v $where }}
{{- if or (has $key $own) (regexMatch "^(app.kubernetes.io|leaderworkerset.sigs.k8s.io)/" $key) }}
{{- fail (printf "%s sets %s, which follows from other values (slice, computeClass, region, model, the release); leave it out." $where $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- if eq $v.serviceAccount.name (printf "%s-picker" .Release.Name) }}
{{- fail (printf "serviceAccount.name is %q, which is what the endpoint pickers' account is called; name another." $v.serviceAccount.name) }}
{{- end }}
{{- end }}

{{/* The model and its versions. */}}
{{- define "antipode.validate.model" -}}
{{- $v := .Values -}}
{{- if not (and $v.model.name $v.model.path $v.model.version) }}
{{- fail "model.name, model.path and model.version must all be set: the server serves <path>/<version> under that name." }}
{{- end }}
{{- if regexMatch "(^|/)[0-9]+/?$" $v.model.path }}
{{- fail (printf "model.path %q ends in a version; name the folder of the model's versions there, and the version in model.version." $v.model.path) }}
{{- end }}
{{- if hasPrefix "gs://" (printf "%s%s" $v.model.bucket $v.model.path) }}
{{- fail "model.bucket is a bucket's name and model.path a folder in it; leave out gs://." }}
{{- end }}
{{- if and $v.model.labels (eq $v.swap.mode "rollout") }}
{{- fail "model.labels names versions beside the one that is served, which pods load by the file of swap.mode inPlace; leave it empty with rollout." }}
{{- end }}
{{- end }}

{{/* Chips, interfaces and where nodes come from. */}}
{{- define "antipode.validate.slice" -}}
{{- $v := .Values -}}
{{- $hosts := include "antipode.hosts" . | int }}
{{- if and (include "antipode.isTpu" .) (not (include "antipode.slice" .)) }}
{{- fail (printf "slice %q is not one this chart can place; use %s, or cpu." $v.slice (include "antipode.slices" . | fromYaml | keys | sortAlpha | join ", ")) }}
{{- end }}
{{- if include "antipode.isTpu" . }}
{{- $slice := include "antipode.slice" . | fromYaml }}
{{- $chips := include "antipode.chips" . | int }}
{{- $tp := int $v.server.tensorParallelSize }}
{{- if and $tp (ne (mod $chips $tp) 0) }}
{{- fail (printf "server.tensorParallelSize is %d, which does not divide the %d chips of %s." $tp $chips $v.slice) }}
{{- end }}
{{- $dp := int $v.server.dataParallelSize }}
{{- if and $tp (gt (mul $tp $dp | int) $chips) }}
{{- fail (printf "server.tensorParallelSize is %d and server.dataParallelSize %d, together more than the %d chips of %s; leave dataParallelSize at 0 for as many as there are." $tp $dp $chips $v.slice) }}
{{- end }}
{{- if and $tp $dp (le (mul $tp $dp | int) (mul $slice.chips (sub $hosts 1) | int)) }}
{{- fail (printf "server.tensorParallelSize is %d and server.dataParallelSize %d, which leaves hosts of %s without a chip to use; take a slice of fewer hosts, or leave dataParallelSize at 0 for all chips." $tp $dp $v.slice) }}
{{- end }}
{{- if and $v.dranet.enabled (not (has $slice.generation (list "v6e" "v7x"))) }}
{{- fail (printf "dranet.enabled is true, but GKE offers its network interfaces on v6e and v7x only, and the slice is %s; set dranet.enabled to false." $v.slice) }}
{{- end }}
{{- else if $v.dranet.enabled }}
{{- fail "dranet.enabled is true, but the slice is cpu; set dranet.enabled to false." }}
{{- end }}
{{- if and $v.computeClass.create (not $v.computeClass.name) }}
{{- fail "computeClass.create is true; set computeClass.name to what the class is to be called." }}
{{- end }}
{{- if and $v.computeClass.create (not (include "antipode.isTpu" .)) }}
{{- fail "computeClass.create is true, but the slice is cpu, and the class is made from a TPU slice; set it to false." }}
{{- end }}
{{- if and $v.computeClass.create (has "reservation" $v.computeClass.priorities) (not $v.computeClass.reservation) }}
{{- fail "computeClass.priorities has reservation; set computeClass.reservation to its name." }}
{{- end }}
{{- if and $v.computeClass.reservation (not (has "reservation" $v.computeClass.priorities)) }}
{{- fail "computeClass.reservation is set, but computeClass.priorities has no reservation, so it would not be used; add it." }}
{{- end }}
{{- if and (eq $v.dranet.allocationMode "ExactCount") (lt (int $v.dranet.count) 1) }}
{{- fail "dranet.allocationMode is ExactCount; set dranet.count to the number of interfaces." }}
{{- end }}
{{- if and (eq $v.dranet.allocationMode "All") (gt (int $v.dranet.count) 0) }}
{{- fail "dranet.count is set, but dranet.allocationMode is All; use ExactCount or leave the count at 0." }}
{{- end }}
{{- end }}

{{/* A group of hosts. */}}
{{- define "antipode.validate.hosts" -}}
{{- $v := .Values -}}
{{- $hosts := include "antipode.hosts" . | int }}
{{- if and (gt $hosts 1) $v.compileCache.storageClass }}
{{- fail (printf "compileCache.storageClass makes one claim, which one pod can mount, and %s has %d hosts; leave it empty." $v.slice $hosts) }}
{{- end }}
{{- range $port := list (int $v.server.groupPort) (add $v.server.groupPort 1 | int) }}
{{- if has $port (list 8000 8001 8431 8471 9000 9001) }}
{{- fail (printf "server.groupPort is %d, and the group uses that port and the next, but %d is the server's or libtpu's; use another, such as 9200." (int $v.server.groupPort) $port) }}
{{- end }}
{{- end }}
{{- if and (gt $hosts 1) (ge (int $v.server.groupStartTimeoutSeconds) (int $v.startupSeconds)) }}
{{- fail (printf "server.groupStartTimeoutSeconds is %d, but startupSeconds is %d: the kubelet would end a leader that waits for its hosts before it can say which are missing." (int $v.server.groupStartTimeoutSeconds) (int $v.startupSeconds)) }}
{{- end }}
{{- end }}

{{/* How a pod ends. */}}
{{- define "antipode.validate.end" -}}
{{- $v := .Values -}}
{{- $end := add $v.server.lameDuckSeconds $v.server.drainTimeoutSeconds }}
{{- $grace := include "antipode.gracePeriod" . | int }}
{{- if le $grace (int $end) }}
{{- fail (printf "terminationGracePeriodSeconds is %d, but a drain may take %d (server.lameDuckSeconds and server.drainTimeoutSeconds); allow at least %d, or leave it at 0." $grace (int $end) (add $end 10)) }}
{{- end }}
{{- end }}

{{/* Replicas and what each has to itself. */}}
{{- define "antipode.validate.scaling" -}}
{{- $v := .Values -}}
{{- if and (eq (int $v.replicas) 0) $v.autoscaling.enabled }}
{{- fail "replicas is 0, but autoscaling.enabled is true, and the autoscaler keeps minReplicas; set autoscaling.enabled to false to empty the region." }}
{{- end }}
{{- if and $v.autoscaling.enabled (lt (int $v.autoscaling.maxReplicas) (int $v.autoscaling.minReplicas)) }}
{{- fail (printf "autoscaling.maxReplicas is %d, less than minReplicas, %d." (int $v.autoscaling.maxReplicas) (int $v.autoscaling.minReplicas)) }}
{{- end }}
{{- if and $v.autoscaling.enabled $v.compileCache.storageClass }}
{{- fail "autoscaling.enabled needs a compile cache for each pod, and compileCache.storageClass makes one claim for all; leave it empty." }}
{{- end }}
{{- if and $v.autoscaling.enabled (ne $v.autoscalingMetric.shape "metrics") }}
{{- fail (printf "autoscaling.enabled is true, but autoscalingMetric.shape is %s, which feeds the gateway only; set it to metrics, on a cluster that has that shape." $v.autoscalingMetric.shape) }}
{{- end }}
{{- if and (gt (int $v.replicas) 1) $v.compileCache.storageClass }}
{{- fail "compileCache.storageClass makes one claim, which one pod can mount; leave it empty with several replicas." }}
{{- end }}
{{- end }}

{{/* Who reaches the server, and who watches it. */}}
{{- define "antipode.validate.network" -}}
{{- $v := .Values -}}
{{- if and $v.networkPolicy.enabled (or $v.pools.http.enabled $v.pools.grpc.enabled $v.service.export) (not $v.networkPolicy.proxyRanges) }}
{{- fail "networkPolicy.proxyRanges is empty: the gateway's requests come from the proxy-only subnets of both regions; list their ranges, or set networkPolicy.enabled to false." }}
{{- end }}
{{- range $pool := list "http" "grpc" }}
{{- if and (index $v.pools $pool).enabled (not $v.picker.enabled) (not (index $v.picker.existing $pool)) }}
{{- fail (printf "pools.%s is enabled without an endpoint picker; set picker.enabled to true, or picker.existing.%s to a picker's Service." $pool $pool) }}
{{- end }}
{{- end }}
{{- if and (ne $v.service.type "ClusterIP") $v.networkPolicy.enabled (not $v.networkPolicy.clientRanges) }}
{{- fail (printf "service.type is %s, but networkPolicy lets nobody from outside of the cluster in; list the clients' ranges in networkPolicy.clientRanges." $v.service.type) }}
{{- end }}
{{- if and (eq $v.service.type "LoadBalancer") (not $v.service.annotations) }}
{{- fail "service.type is LoadBalancer, and the server asks nobody who they are; set service.annotations to what keeps its address internal in your cloud, such as {networking.gke.io/load-balancer-type: Internal}." }}
{{- end }}
{{- if and $v.monitoring.rules (not $v.monitoring.podMonitoring) }}
{{- fail "monitoring.rules is true, but monitoring.podMonitoring is false: the rules tell releases apart by a label that PodMonitoring sets; set both or neither." }}
{{- end }}
{{- end }}
