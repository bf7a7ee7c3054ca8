{{- define "gateway.validate" -}}
{{- $v := .Values -}}
{{- if not (or $v.pools.http $v.pools.grpc) }}
{{- fail "pools.http and pools.grpc are both false; there is nothing to route to." }}
{{- end }}
{{- if or (gt (len .Release.Name) 48) (not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .Release.Name)) }}
{{- fail (printf "the release is called %q; objects are named after it, so it must begin with a letter, have letters, digits and - alone, and 48 of them at most." .Release.Name) }}
{{- end }}
{{- if and (not $v.tls.enabled) (or $v.tls.secretName $v.tls.options) }}
{{- fail "tls.secretName or tls.options is set, but tls.enabled is false, and requests would go unencrypted; set it to true." }}
{{- end }}
{{- if and $v.tls.enabled (not $v.tls.secretName) (not $v.tls.options) }}
{{- fail "tls.enabled is true; set tls.secretName to the Secret with the certificate, or tls.options to what names it otherwise." }}
{{- end }}
{{- if gt (int $v.healthCheck.timeoutSeconds) (int $v.healthCheck.intervalSeconds) }}
{{- fail (printf "healthCheck.timeoutSeconds is %d, longer than healthCheck.intervalSeconds, %d; the load balancer refuses that." (int $v.healthCheck.timeoutSeconds) (int $v.healthCheck.intervalSeconds)) }}
{{- end }}
{{- if eq $v.flavour "gke" }}
{{- if lt (len $v.regions) 2 }}
{{- fail "regions lists fewer than two; name the regions of both serving clusters." }}
{{- end }}
{{- if and $v.gke.preferredRegion (not (has $v.gke.preferredRegion $v.regions)) }}
{{- fail (printf "gke.preferredRegion is %q, which is not among the regions." $v.gke.preferredRegion) }}
{{- end }}
{{- range $region, $_ := $v.gke.capacityPercent }}
{{- if not (has $region $v.regions) }}
{{- fail (printf "gke.capacityPercent has %q, which is not among the regions." $region) }}
{{- end }}
{{- end }}
{{- else if lt (len $v.envoy.backends) 2 }}
{{- fail "envoy.backends lists fewer than two; name what answers in each region." }}
{{- end }}
{{- end }}

{{- define "gateway.labels" -}}
app.kubernetes.io/name: antipode-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Pools by name and port, those that are routed to. */}}
{{- define "gateway.pools" -}}
{{- if .Values.pools.grpc }}
grpc: 9000
{{- end }}
{{- if .Values.pools.http }}
http: 8000
{{- end }}
{{- end }}

{{/* gRPC is told by its services' paths: all names begin with a package. */}}
{{- define "gateway.match" -}}
{{- if eq . "grpc" }}
matches:
  - path: {type: PathPrefix, value: /antipode.v1.Generation}
  - path: {type: PathPrefix, value: /grpc.health.v1.Health}
  - path: {type: PathPrefix, value: /grpc.reflection.v1.ServerReflection}
  - path: {type: PathPrefix, value: /grpc.reflection.v1alpha.ServerReflection}
{{- else }}
matches:
  - path: {type: PathPrefix, value: /}
{{- end }}
{{- end }}

{{/* Where the requests of (dict "root" $ "pool" "grpc") go: what the fleet's clusters export. */}}
{{- define "gateway.backend" -}}
{{- if and (eq .pool "grpc") (eq .root.Values.gke.grpcBackend "service") -}}
group: net.gke.io
kind: ServiceImport
name: {{ .root.Values.release }}
{{- else -}}
group: networking.gke.io
kind: GCPInferencePoolImport
name: {{ .root.Values.release }}-{{ .pool }}
{{- end }}
{{- end }}
