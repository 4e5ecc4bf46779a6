{{- define "control-plane.name" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "control-plane.selector" -}}
app.kubernetes.io/name: control-plane
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "control-plane.labels" -}}
{{ include "control-plane.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "control-plane.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "control-plane.name" .) -}}
{{- end -}}

{{- /* Port of "host:port" or "[::]:port". */ -}}
{{- define "control-plane.port" -}}
{{- splitList ":" . | last -}}
{{- end -}}

{{- /* Listeners for web apps: [{name, container, service}] under "ports". */ -}}
{{- define "control-plane.web" -}}
ports:
{{- with .Values.web }}
{{- if .httpListen }}
  - {name: web-http, container: {{ include "control-plane.port" .httpListen }}, service: {{ int .service.httpPort }}}
{{- end }}
{{- if .httpsListen }}
  - {name: web-https, container: {{ include "control-plane.port" .httpsListen }}, service: {{ int .service.httpsPort }}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "control-plane.env" -}}
PIPEOPS_LISTEN: {{ .Values.listen | quote }}
PIPEOPS_SERVER_LISTEN: {{ .Values.server.listen | quote }}
PIPEOPS_DATA_DIR: /var/lib/pipeops
PIPEOPS_LOG_LEVEL: {{ .Values.logging.level }}
PIPEOPS_LOG_FORMAT: {{ .Values.logging.format }}
PIPEOPS_LINKS_REQUESTS_PER_SECOND: {{ int64 .Values.limits.requestsPerSecond | quote }}
PIPEOPS_LINKS_REQUESTS_BURST: {{ int64 .Values.limits.requestsBurst | quote }}
PIPEOPS_LINKS_MAX_REQUESTS: {{ int64 .Values.limits.maxRequests | quote }}
PIPEOPS_GATEWAY_PORTS: {{ .Values.tunnels.ports }}
{{- with .Values.tunnels.host }}
PIPEOPS_GATEWAY_HOST: {{ . | quote }}
{{- end }}
{{- with .Values.web }}
{{- if .httpListen }}
PIPEOPS_GATEWAY_HTTP_LISTEN: {{ .httpListen | quote }}
PIPEOPS_GATEWAY_HTTP_PORT: {{ .service.httpPort | int | quote }}
{{- end }}
{{- if .httpsListen }}
PIPEOPS_GATEWAY_HTTPS_LISTEN: {{ .httpsListen | quote }}
PIPEOPS_GATEWAY_HTTPS_PORT: {{ .service.httpsPort | int | quote }}
{{- end }}
{{- if .certsSecretName }}
PIPEOPS_GATEWAY_CERT_DIR: /etc/pipeops/web
{{- end }}
{{- with .trustedProxies }}
PIPEOPS_GATEWAY_TRUSTED_PROXIES: {{ join "," . | quote }}
{{- end }}
{{- end }}
PIPEOPS_SHUTDOWN_TIMEOUT: {{ sub (int .Values.terminationGracePeriodSeconds) 5 }}s
{{- if .Values.tls.secretName }}
PIPEOPS_TLS_CERT_FILE: /etc/pipeops/tls/tls.crt
PIPEOPS_TLS_KEY_FILE: /etc/pipeops/tls/tls.key
{{- else }}
{{- $service := include "control-plane.name" . }}
{{- $inside := printf "%s.%s" $service .Release.Namespace }}
PIPEOPS_TLS_NAMES: {{ concat .Values.tls.names (list $service $inside (printf "%s.svc" $inside) (printf "%s.svc.cluster.local" $inside)) | join "," | quote }}
{{- end }}
{{- if .Values.tls.clientCaConfigMap.name }}
PIPEOPS_TLS_CLIENT_CA_FILE: /etc/pipeops/client-ca/ca.crt
{{- end }}
{{- with .Values.telemetry.otlpEndpoint }}
PIPEOPS_TELEMETRY_OTLP_ENDPOINT: {{ . | quote }}
PIPEOPS_TELEMETRY_SAMPLE_RATIO: {{ $.Values.telemetry.sampleRatio | quote }}
{{- end }}
{{- end -}}
