{{/* How long a pod may take to end. Nothing here renders an object. */}}

{{/* terminationGracePeriodSeconds or, if that is 0, the lame duck plus the drain plus 15 seconds. */}}
{{- define "antipode.gracePeriod" -}}
{{ int64 .Values.terminationGracePeriodSeconds | default (add .Values.server.lameDuckSeconds .Values.server.drainTimeoutSeconds 15) }}
{{- end }}
