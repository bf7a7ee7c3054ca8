{{/* Labels, and the selectors that find pods by them. Nothing here renders an object. */}}

{{- define "antipode.labels" -}}
app.kubernetes.io/name: antipode
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.region }}
gke.io/region: {{ . | quote }}
{{- end }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "antipode.selector" -}}
app.kubernetes.io/name: antipode
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end }}

{{/*
The label by which an AutoscalingMetric finds the pods that serve: GKE takes no label name with a dot or slash
there. No selector of a workload has the label, because such selectors are immutable.
*/}}
{{- define "antipode.plainLabel" -}}
antipode-server: {{ .Release.Name | quote }}
{{- end }}

{{/* Selects the pods that serve. In a group of hosts only the leader serves; followers open no port. */}}
{{- define "antipode.leaders" -}}
{{ include "antipode.selector" . }}
{{- if gt (include "antipode.hosts" . | int) 1 }}
leaderworkerset.sigs.k8s.io/worker-index: "0"
{{- end }}
{{- end }}

{{/* The namespaces whose pods read metrics, as the peers of a network policy's rule. */}}
{{- define "antipode.collectors" -}}
from:
  - namespaceSelector:
      matchExpressions:
        - key: kubernetes.io/metadata.name
          operator: In
          values: [gmp-system, gke-gmp-system, gke-managed-system, kube-system]
{{- end }}
