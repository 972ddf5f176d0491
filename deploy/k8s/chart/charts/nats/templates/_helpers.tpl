{{- define "nats.fullname" -}}
{{- printf "%s-nats" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "nats.selector" -}}
app.kubernetes.io/name: nats
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "nats.labels" -}}
{{ include "nats.selector" . }}
app.kubernetes.io/component: broker
app.kubernetes.io/part-of: headrace
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "nats.authSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-auth" (include "nats.fullname" .)) -}}
{{- end }}

{{- define "nats.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "nats.fullname" .)) -}}
{{- end }}

{{- /* Names that the servers' certificate must bear, as a JSON list. */ -}}
{{- define "nats.hostnames" -}}
{{- $name := include "nats.fullname" . -}}
{{- $space := .Release.Namespace -}}
{{- $domain := .Values.clusterDomain -}}
{{- list
    $name
    (printf "%s.%s" $name $space)
    (printf "%s.%s.svc" $name $space)
    (printf "%s.%s.svc.%s" $name $space $domain)
    (printf "*.%s-servers" $name)
    (printf "*.%s-servers.%s.svc" $name $space)
    (printf "*.%s-servers.%s.svc.%s" $name $space $domain)
    "localhost" | toJson -}}
{{- end }}
