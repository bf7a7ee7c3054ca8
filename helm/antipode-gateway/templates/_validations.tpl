{{- define "gateway.validate" -}}
{{- $v := .Values -}}
{{- if not (or $v.pools.http $v.pools.grpc) }}
{{- fail "pools.http and pools.grpc are both false, so there is nothing to route to; set one of them to true." }}
{{- end }}
{{- if or (gt (len .Release.Name) 48) (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .Release.Name)) }}
{{- fail (printf "the release name is %q; use at most 48 lowercase letters, digits and -, beginning with a letter and not ending in -, because objects are named after it." .Release.Name) }}
{{- end }}
{{- range $key, $_ := $v.commonLabels }}
{{- if hasPrefix "app.kubernetes.io/" $key }}
{{- fail (printf "commonLabels sets %s, which the chart sets; leave it out." $key) }}
{{- end }}
{{- end }}
{{- range $v.regions }}
{{- $address := printf "%s%s" $v.gke.addressPrefix . }}
{{- if and $v.gke.addressPrefix (gt (len $address) 63) }}
{{- fail (printf "gke.addressPrefix makes %q, of %d characters, and an address has a name of at most 63; use a shorter prefix." $address (len $address)) }}
{{- end }}
{{- end }}
{{- if and (not $v.tls.enabled) (or $v.tls.secretName $v.tls.options) }}
{{- fail "tls.secretName or tls.options is set, but tls.enabled is false, so requests would go unencrypted; set tls.enabled to true." }}
{{- end }}
{{- if and $v.tls.enabled (not $v.tls.secretName) (not $v.tls.options) }}
{{- fail "tls.enabled is true, but no certificate is named; set tls.secretName to its Secret, or tls.options to the gateway class's option for it." }}
{{- end }}
{{- if and $v.existingGateway (or $v.tls.enabled $v.tls.secretName $v.tls.options) }}
{{- fail (printf "existingGateway is %q, which has its own listeners, but tls is set; set tls at the release that made the Gateway." $v.existingGateway) }}
{{- end }}
{{- if and $v.existingGateway (not $v.hostnames) (not $v.requestHeader.values) }}
{{- fail (printf "existingGateway is %q, but neither hostnames nor requestHeader.values is set, so this release and the others of that Gateway would claim the same requests; set one of them." $v.existingGateway) }}
{{- end }}
{{- if ne (empty $v.requestHeader.name) (empty $v.requestHeader.values) }}
{{- fail "requestHeader needs both a name and values; set both, or neither." }}
{{- end }}
{{- if gt (int $v.healthCheck.timeoutSeconds) (int $v.healthCheck.intervalSeconds) }}
{{- fail (printf "healthCheck.timeoutSeconds is %d, longer than healthCheck.intervalSeconds, %d, which the load balancer refuses; lower the timeout or raise the interval." (int $v.healthCheck.timeoutSeconds) (int $v.healthCheck.intervalSeconds)) }}
{{- end }}
{{- $here := eq $v.residency "region" }}
{{- if and $here (ne 1 (len (ternary $v.regions $v.envoy.backends (eq $v.flavour "gke")))) }}
{{- fail "residency is region, so prompts may not go to another one; list only the region of this cluster in regions (flavour gke), or only its address in envoy.backends (flavour envoy)." }}
{{- end }}
{{- if and $here (or $v.gke.preferredRegion $v.gke.capacityPercent) }}
{{- fail "residency is region, but gke.preferredRegion or gke.capacityPercent shares requests between regions; leave them empty." }}
{{- end }}
{{- if eq $v.flavour "gke" }}
{{- if and (not $here) (lt (len $v.regions) 2) }}
{{- fail "regions lists fewer than two regions; list the regions of both serving clusters." }}
{{- end }}
{{- if and $v.gke.preferredRegion (not (has $v.gke.preferredRegion $v.regions)) }}
{{- fail (printf "gke.preferredRegion is %q, which is not among the regions; use one of them, or add it to regions." $v.gke.preferredRegion) }}
{{- end }}
{{- range $region, $_ := $v.gke.capacityPercent }}
{{- if not (has $region $v.regions) }}
{{- fail (printf "gke.capacityPercent has %q, which is not among the regions; remove it, or add it to regions." $region) }}
{{- end }}
{{- end }}
{{- else if and (not $here) (lt (len $v.envoy.backends) 2) }}
{{- fail "envoy.backends lists fewer than two backends; list the address of each region." }}
{{- end }}
{{- end }}

{{- define "gateway.labels" -}}
app.kubernetes.io/name: antipode-gateway
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A name for what belongs to the cluster; the hash tells a-b of the namespace c from b of the namespace c-a. */}}
{{- define "gateway.ofCluster" -}}
{{- $both := printf "%s/%s" .Release.Namespace .Release.Name }}
{{- $both | replace "/" "-" | trimPrefix "-" }}-{{ $both | sha256sum | trunc 8 }}
{{- end }}

{{- define "gateway.name" -}}
{{ .Values.existingGateway | default .Release.Name }}
{{- end }}

{{/* The pools that the gateway routes to: name and port. */}}
{{- define "gateway.pools" -}}
{{- if .Values.pools.grpc }}
grpc: 9000
{{- end }}
{{- if .Values.pools.http }}
http: 8000
{{- end }}
{{- end }}

{{/* The paths of the requests to a pool, as a JSON array. Every gRPC call's path begins with its service's name. */}}
{{- define "gateway.paths" -}}
{{- $grpc := list
  "/antipode.v1.Generation"
  "/inference.GRPCInferenceService"
  "/vllm.grpc.engine.VllmEngine"
  "/xds.service.orca.v3.OpenRcaService"
  "/grpc.health.v1.Health"
  "/grpc.reflection.v1.ServerReflection"
  "/grpc.reflection.v1alpha.ServerReflection" -}}
{{ ternary $grpc (list "/") (eq . "grpc") | toJson }}
{{- end }}

{{/* The matches of (dict "paths" PATHS "header" .Values.requestHeader): each path with each value of the header. */}}
{{- define "gateway.matches" -}}
{{- $header := .header -}}
matches:
{{- range $path := .paths }}
{{- range $value := $header.values | default (list "") }}
  - path: {type: PathPrefix, value: {{ $path }}}
    {{- with $value }}
    headers:
      - name: {{ $header.name | quote }}
        value: {{ . | quote }}
    {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "gateway.className" -}}
{{- $ofGke := ternary "gke-l7-rilb" "gke-l7-cross-regional-internal-managed-mc" (eq .Values.residency "region") -}}
{{ ternary (.Values.gke.className | default $ofGke) .Values.envoy.className (eq .Values.flavour "gke") }}
{{- end }}

{{/*
The object that gets the requests of (dict "root" $ "pool" "grpc"): of this cluster, if prompts stay in their region,
otherwise what both clusters export.
*/}}
{{- define "gateway.backend" -}}
{{- $service := and (eq .pool "grpc") (eq .root.Values.gke.grpcBackend "service") }}
{{- $here := eq .root.Values.residency "region" -}}
{{- if and $here $service -}}
group: ""
kind: Service
name: {{ .root.Values.release | quote }}
{{- else if $here -}}
group: inference.networking.k8s.io
kind: InferencePool
name: "{{ .root.Values.release }}-{{ .pool }}"
{{- else if $service -}}
group: net.gke.io
kind: ServiceImport
name: {{ .root.Values.release | quote }}
{{- else -}}
group: networking.gke.io
kind: GCPInferencePoolImport
name: "{{ .root.Values.release }}-{{ .pool }}"
{{- end }}
{{- end }}
