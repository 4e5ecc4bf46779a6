{{- define "nats.service" -}}
{{- $conf := include "nats.conf" . -}}
{{- $port := include "pipeops.port" .values.listen.client -}}
tag: {{ printf "%s-alpine" .chart.Chart.AppVersion }}
strategy:
  # Two at once would be two buses.
  type: Recreate
command: [nats-server]
args: ["-c", "/etc/nats/nats.conf"]
ports:
  client: {{ $port }}
  monitor: {{ include "pipeops.port" .values.listen.monitor }}
probes:
  port: monitor
  liveness: /healthz?js-server-only=true
  readiness: /healthz
service:
  client: {{ $port }}
secret:
  nats.conf: {{ $conf | quote }}
volumes:
  - name: config
    mountPath: /etc/nats
    secret:
      secretName: {{ include "pipeops.name" . }}
      defaultMode: 0440
env:
  GOMAXPROCS: {{ .values.maxProcs }}
  {{- if .root.Values.bus.existingSecret }}
  {{- range $user := keys .users | sortAlpha }}
  BUS_PASSWORD_{{ $user | upper | replace "-" "_" }}:
    secretKeyRef:
      name: {{ $.root.Values.bus.existingSecret }}
      key: {{ $user }}
  {{- end }}
  {{- end }}
checksum: {{ $conf | sha256sum }}
ingress:
  - from:
      - podSelector:
          matchLabels:
            app.kubernetes.io/instance: {{ .root.Release.Name }}
            pipeops.io/bus: client
    ports:
      - port: client
        protocol: TCP
{{- end -}}

{{- /* Users and permissions come from files/permissions.yaml, which is generated from the table in shared/bus. */ -}}
{{- define "nats.conf" -}}
{{- $table := .chart.Files.Get "files/permissions.yaml" | fromYaml -}}
server_name: {{ include "pipeops.name" . | quote }}
listen: {{ .values.listen.client | quote }}
http: {{ .values.listen.monitor | quote }}
max_payload: 1MB
max_pending: {{ .values.maxPending }}
max_connections: {{ .values.maxConnections }}
# A dead peer must be noticed within seconds.
ping_interval: "2s"
ping_max: 2
write_deadline: "5s"
authorization {
  timeout: 5
  users: [
{{- range $user := keys .users | sortAlpha }}
    {{- if not (hasKey $table $user) }}{{ fail (printf "service %s has no entry in charts/nats/files/permissions.yaml" $user) }}{{ end }}
    {{- $may := index $table $user }}
    {
      user: {{ $user | quote }}
      password: {{ with (index $.users $user).hash }}{{ . | quote }}{{ else }}$BUS_PASSWORD_{{ $user | upper | replace "-" "_" }}{{ end }}
      permissions {
        publish {{ if $may.publish }}{ allow: {{ toRawJson $may.publish }} }{{ else }}{ deny: ">" }{{ end }}
        subscribe {{ if $may.subscribe }}{ allow: {{ toRawJson $may.subscribe }} }{{ else }}{ deny: ">" }{{ end }}
        {{- if $may.allow_responses }}
        allow_responses: true
        {{- end }}
      }
    }
{{- end }}
  ]
}
{{- end -}}
