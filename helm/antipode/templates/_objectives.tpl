{{/*
Service level objectives. An error budget is the share of bad requests that an objective allows. An alert fires when
requests of both windows of (dict "root" $ "bad" NAME "good" 99.5 "times" 6 "long" "6h" "short" "30m") spend it that
many times too fast: the long window says that it matters, the short one that it still goes on.
*/}}

{{- define "antipode.budgetBurns" -}}
{{- $allowed := divf (subf 100.0 .good) 100.0 }}
{{- $spent := printf "%s * %v" (.times | toString) $allowed }}
{{- $bad := .bad }}
{{- $release := printf "helm_release=%q" .root.Release.Name }}
{{- $seconds := .root.Values.monitoring.objectives.firstTokenSeconds }}
{{- range $i, $window := list .long .short }}
{{- if $i }} and {{ end }}(
{{- include $bad (dict "release" $release "window" $window "seconds" $seconds) }}) > {{ $spent }}
{{- end }}
{{- end }}

{{/* The share of requests that failed by no fault of their own. */}}
{{- define "antipode.failed" -}}
sum(rate(antipode_requests_total{ {{- .release }}, outcome=~"internal|queue_full|unavailable"}[{{ .window }}])) / sum(rate(antipode_requests_total{ {{- .release -}} }[{{ .window }}]))
{{- end }}

{{/* The share of requests whose first token came later than the objective allows, which is a bound of the histogram. */}}
{{- define "antipode.late" -}}
1 - sum(rate(antipode_time_to_first_token_seconds_bucket{ {{- .release }}, le=~"{{ .seconds }}([.]0)?"}[{{ .window }}])) / sum(rate(antipode_time_to_first_token_seconds_count{ {{- .release -}} }[{{ .window }}]))
{{- end }}
