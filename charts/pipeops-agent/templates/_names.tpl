{{- /* <release>-<part>, cut to what a label may hold. Takes {root, name}. */ -}}
{{- define "pipeops.name" -}}
{{- printf "%s-%s" .root.Release.Name .name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "pipeops.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{- define "pipeops.labels" -}}
{{ include "pipeops.selector" . }}
app.kubernetes.io/part-of: pipeops-agent
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "pipeops.serviceAccount" -}}
{{- .values.serviceAccount.name | default (include "pipeops.name" .) -}}
{{- end -}}

{{- define "pipeops.image" -}}
{{- $tag := .values.image.tag | default .spec.tag | default .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- $registry := .root.Values.image.registry -}}
{{- if $registry -}}{{ trimSuffix "/" $registry }}/{{ end -}}
{{ .values.image.repository }}:{{ $tag }}
{{- end -}}

{{- /* Port of "host:port" or "[::]:port". */ -}}
{{- define "pipeops.port" -}}
{{- splitList ":" . | last -}}
{{- end -}}

{{- /* Port of an http, https, ws or wss URL, its scheme's where none is written. */ -}}
{{- define "pipeops.urlPort" -}}
{{- $url := urlParse . -}}
{{- if regexMatch ":[0-9]+$" $url.host -}}
{{- include "pipeops.port" $url.host -}}
{{- else if has $url.scheme (list "http" "ws") -}}80{{- else -}}443{{- end -}}
{{- end -}}

{{- define "pipeops.bus.url" -}}
{{- if .Values.bus.url -}}
{{- .Values.bus.url -}}
{{- else if not (hasKey .Subcharts "nats") -}}
{{- fail "nats.enabled is false: bus.url must name the NATS to use" -}}
{{- else -}}
nats://{{ include "pipeops.name" (dict "root" . "name" "nats") }}:{{ include "pipeops.port" .Subcharts.nats.Values.listen.client }}
{{- end -}}
{{- end -}}

{{- /* Secret with the control plane's token. */ -}}
{{- define "pipeops.controlPlane.secret" -}}
{{- .Values.agent.pipeops.existingSecret.name | default (include "pipeops.name" (dict "root" . "name" "control-plane")) -}}
{{- end -}}
