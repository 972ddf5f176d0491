{{- define "headrace.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "headrace" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-headrace" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "headrace.selector" -}}
app.kubernetes.io/name: headrace
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "headrace.labels" -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: headrace
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Image of a role: (dict "root" $ "role" "coordinator"). */ -}}
{{- define "headrace.image" -}}
{{- $image := .root.Values.image -}}
{{- $own := index $image .role | default dict -}}
{{- $repository := $own.repository | default (printf "%s/%s" $image.repository .role) -}}
{{- with $image.registry }}{{ . }}/{{ end -}}
{{- if $own.digest -}}
{{ $repository }}@{{ $own.digest }}
{{- else -}}
{{ $repository }}:{{ $own.tag | default $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "headrace.natsName" -}}
{{- printf "%s-nats" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "headrace.tls" -}}
{{- if .Values.nats.enabled }}{{ if .Values.nats.tls.enabled }}true{{ end }}{{ else if .Values.broker.tls.enabled }}true{{ end -}}
{{- end }}

{{- define "headrace.servers" -}}
{{- if .Values.nats.enabled -}}
{{ ternary "tls" "nats" (eq (include "headrace.tls" .) "true") }}://{{ include "headrace.natsName" . }}:4222
{{- else -}}
{{- required "broker.servers is needed when nats.enabled is false" (join "," .Values.broker.servers) -}}
{{- end -}}
{{- end }}

{{- define "headrace.monitor" -}}
{{- if .Values.nats.enabled }}http://{{ include "headrace.natsName" . }}:8222{{ else }}{{ .Values.broker.monitor }}{{ end -}}
{{- end }}

{{- define "headrace.authSecret" -}}
{{- if .Values.broker.auth.existingSecret -}}
{{ .Values.broker.auth.existingSecret }}
{{- else if .Values.nats.enabled -}}
{{ .Values.nats.auth.existingSecret | default (printf "%s-auth" (include "headrace.natsName" .)) }}
{{- end -}}
{{- end }}

{{- define "headrace.caSecret" -}}
{{- if .Values.nats.enabled -}}
{{ .Values.nats.tls.existingSecret | default (printf "%s-tls" (include "headrace.natsName" .)) }}
{{- else -}}
{{ .Values.broker.tls.caSecret }}
{{- end -}}
{{- end }}

{{- /* How a role's login is given: password, creds or nkey. */ -}}
{{- define "headrace.brokerEnv" -}}
{{- $root := .root -}}
- name: HEADRACE_CFG_BROKER__SERVERS
  value: {{ include "headrace.servers" $root | quote }}
{{- if include "headrace.authSecret" $root }}
{{- $type := $root.Values.broker.auth.type }}
{{- if eq $type "password" }}
- name: HEADRACE_CFG_BROKER__USER
  value: {{ .user | default .role }}
- name: HEADRACE_CFG_BROKER__PASSWORD_FILE
  value: /run/headrace/auth/login
{{- else }}
- name: HEADRACE_CFG_BROKER__{{ ternary "CREDS_FILE" "NKEY_FILE" (eq $type "creds") }}
  value: /run/headrace/auth/login
{{- end }}
{{- end }}
{{- if and (include "headrace.tls" $root) (include "headrace.caSecret" $root) }}
- name: HEADRACE_CFG_BROKER__TLS_CA_FILE
  value: /run/headrace/tls/ca.crt
{{- end }}
{{- end }}

{{- define "headrace.brokerMounts" -}}
{{- if include "headrace.authSecret" .root }}
- name: auth
  mountPath: /run/headrace/auth
  readOnly: true
{{- end }}
{{- if and (include "headrace.tls" .root) (include "headrace.caSecret" .root) }}
- name: tls
  mountPath: /run/headrace/tls
  readOnly: true
{{- end }}
{{- end }}

{{- /* Only the role's own key of the Secret is mounted: (dict "root" $ "key" "worker"). */ -}}
{{- define "headrace.brokerVolumes" -}}
{{- with include "headrace.authSecret" .root }}
- name: auth
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - key: {{ $.key }}
        path: login
{{- end }}
{{- if and (include "headrace.tls" .root) (include "headrace.caSecret" .root) }}
- name: tls
  secret:
    secretName: {{ include "headrace.caSecret" .root }}
    defaultMode: 0444
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- end }}

{{- define "headrace.probes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: metrics
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /healthz
    port: metrics
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: metrics
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{- define "headrace.coordinatorName" -}}
{{ include "headrace.fullname" . }}-coordinator
{{- end }}

{{- /* All coordinators by name: stable ordinals. */ -}}
{{- define "headrace.peers" -}}
{{- $peers := list -}}
{{- range $number := until (int .Values.coordinator.replicas) -}}
{{- $peers = append $peers (printf "%s-%d" (include "headrace.coordinatorName" $) $number) -}}
{{- end -}}
{{ join "," $peers }}
{{- end }}

{{- /* A pool with the defaults filled in, as YAML: (dict "root" $ "pool" .). */ -}}
{{- define "headrace.pool" -}}
{{- $pool := mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy .pool) -}}
{{- $grace := add (int $pool.longestStepSeconds) 5 -}}
{{- $least := add $grace 25 -}}
{{- if not $pool.terminationGracePeriodSeconds -}}
{{- $_ := set $pool "terminationGracePeriodSeconds" $least -}}
{{- else if lt (int $pool.terminationGracePeriodSeconds) (int $least) -}}
{{- fail (printf "workers: pool %s: terminationGracePeriodSeconds is %d, and must be at least %d: longestStepSeconds (%d) and 30 s to hand back the rest" $pool.name (int $pool.terminationGracePeriodSeconds) (int $least) (int $pool.longestStepSeconds)) -}}
{{- end -}}
{{- $_ := set $pool "graceMs" (mul $grace 1000) -}}
{{ toYaml $pool }}
{{- end }}

{{- /* The lanes that a pool can serve: those that need nothing but what it offers. */ -}}
{{- define "headrace.lanes" -}}
{{- $labels := list -}}
{{- range .capabilities }}{{ $labels = append $labels (lower . | regexQuoteMeta) }}{{ end -}}
{{- $any := join "|" $labels -}}
{{- printf "any|(%s)(,(%s))*" $any $any -}}
{{- end }}

{{- /* Work there is for a pool, in slots: what waits, and what its workers hold. PromQL. */ -}}
{{- define "headrace.demand" -}}
{{- $pool := .pool -}}
{{- $extra := ternary "" (printf ",%s" .root.Values.autoscaling.matchers) (empty .root.Values.autoscaling.matchers) -}}
{{- $lanes := include "headrace.lanes" $pool | replace "\\" "\\\\" -}}
(sum(headrace_lane_ready_steps{namespace="{{ $pool.namespace }}",lane=~"{{ $lanes }}"{{ $extra }}}) or vector(0)) + (sum(headrace_worker_slots_used{pool="{{ .root.Release.Name }}-{{ $pool.name }}"{{ $extra }}}) or vector(0))
{{- end }}

{{- /* What flowctl reads: server, login and authority. */ -}}
{{- define "headrace.clientEnv" -}}
{{- $secret := include "headrace.authSecret" . }}
{{- $type := .Values.broker.auth.type }}
{{- $servers := include "headrace.servers" . }}
{{- if and $secret (eq $type "password") }}
- name: CLIENT_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: client
- name: FLOWCTL_SERVER
  value: {{ $servers | replace "://" "://client:$(CLIENT_PASSWORD)@" | quote }}
{{- else }}
- name: FLOWCTL_SERVER
  value: {{ $servers | quote }}
{{- if $secret }}
- name: FLOWCTL_{{ ternary "CREDS_FILE" "NKEY_FILE" (eq $type "creds") }}
  value: /run/headrace/auth/login
{{- end }}
{{- end }}
{{- if and (include "headrace.tls" .) (include "headrace.caSecret" .) }}
- name: FLOWCTL_TLS_CA_FILE
  value: /run/headrace/tls/ca.crt
{{- end }}
{{- end }}

{{- /* A value as a process reads it: YAML's numbers are floats here, and 5000000 is not 5e+06. */ -}}
{{- define "headrace.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . | toString }}{{ else }}{{ toString . }}{{ end -}}
{{- end }}
