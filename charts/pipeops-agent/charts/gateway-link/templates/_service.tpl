{{- define "gateway-link.service" -}}
{{- $agent := .root.Values.agent -}}
{{- $pipeops := $agent.pipeops -}}
{{- $url := required "agent.pipeops.apiUrl is required: the control plane's https://host[:port]" $pipeops.apiUrl -}}
{{- $tls := $pipeops.tls -}}
{{- $proxy := $pipeops.proxy -}}
{{- $ports := concat (list (include "pipeops.urlPort" $url | int)) .root.Values.networkPolicy.controlPlanePorts -}}
{{- with $proxy.url -}}
{{- $ports = append $ports (include "pipeops.urlPort" . | int) -}}
{{- end -}}
bus: true
env:
  PIPEOPS_API_URL: {{ $url | quote }}
  PIPEOPS_TOKEN_FILE: /etc/pipeops/control-plane/token
  PIPEOPS_CLUSTER_NAME: {{ required "agent.cluster.name is required: the name under which this cluster registers" $agent.cluster.name | quote }}
  {{- with $agent.labels }}
  PIPEOPS_AGENT_LABELS: {{ toRawJson . | quote }}
  {{- end }}
  {{- with $agent.heartbeat }}
  PIPEOPS_HEARTBEAT_INTERVAL_CONNECTED: {{ printf "%vs" .intervalConnected | quote }}
  PIPEOPS_HEARTBEAT_INTERVAL_RECONNECTING: {{ printf "%vs" .intervalReconnecting | quote }}
  PIPEOPS_HEARTBEAT_INTERVAL_DISCONNECTED: {{ printf "%vs" .intervalDisconnected | quote }}
  {{- end }}
  {{- if $tls.caFile }}
  PIPEOPS_TLS_CA_FILE: {{ $tls.caFile | quote }}
  {{- else if or $tls.ca $tls.caConfigMap.name }}
  PIPEOPS_TLS_CA_FILE: /etc/pipeops/control-plane-ca/ca.crt
  {{- end }}
  {{- if $tls.clientSecretName }}
  PIPEOPS_TLS_CERT_FILE: /etc/pipeops/control-plane-client/tls.crt
  PIPEOPS_TLS_KEY_FILE: /etc/pipeops/control-plane-client/tls.key
  {{- else if or $tls.certFile $tls.keyFile }}
  PIPEOPS_TLS_CERT_FILE: {{ required "agent.pipeops.tls.keyFile without agent.pipeops.tls.certFile" $tls.certFile | quote }}
  PIPEOPS_TLS_KEY_FILE: {{ required "agent.pipeops.tls.certFile without agent.pipeops.tls.keyFile" $tls.keyFile | quote }}
  {{- end }}
  {{- with $tls.pins }}
  PIPEOPS_TLS_PINS: {{ join "," . | quote }}
  {{- end }}
  {{- if or $proxy.url $proxy.existingSecret.name }}
  {{ hasPrefix "https:" $url | ternary "PIPEOPS_HTTPS_PROXY" "PIPEOPS_HTTP_PROXY" }}:
    secretKeyRef:
      name: {{ $proxy.existingSecret.name | default (printf "%s-proxy" (include "pipeops.name" (dict "root" .root "name" "control-plane"))) }}
      key: {{ $proxy.existingSecret.key }}
  {{- end }}
  {{- with $proxy.noProxy }}
  PIPEOPS_NO_PROXY: {{ . | quote }}
  {{- end }}
  {{- if $pipeops.compression }}
  PIPEOPS_COMPRESSION: "true"
  {{- end }}
  {{- if $tls.insecureSkipVerify }}
  PIPEOPS_TLS_INSECURE_SKIP_VERIFY: "true"
  {{- end }}
  PIPEOPS_TUNNELS_ENABLED: {{ .values.tunnels.enabled | quote }}
  PIPEOPS_TUNNELS_ALLOW: {{ join "," $agent.services.allow | quote }}
  PIPEOPS_TUNNELS_DENY: {{ join "," $agent.services.deny | quote }}
  {{- with $agent.services.clusterDomain }}
  PIPEOPS_TUNNELS_CLUSTER_DOMAIN: {{ . | quote }}
  {{- end }}
  {{- with $agent.tunnel.forwards }}
  PIPEOPS_TUNNEL_FORWARDS: {{ toRawJson . | quote }}
  PIPEOPS_TUNNEL_INACTIVITY_TIMEOUT: {{ $agent.tunnel.inactivityTimeout | quote }}
  {{- end }}
volumes:
  - name: control-plane
    mountPath: /etc/pipeops/control-plane
    secret:
      secretName: {{ include "pipeops.controlPlane.secret" .root }}
      defaultMode: 0440
      items:
        - key: {{ empty $pipeops.existingSecret.name | ternary "token" $pipeops.existingSecret.key }}
          path: token
  {{- if or $tls.ca $tls.caConfigMap.name }}
  - name: control-plane-ca
    mountPath: /etc/pipeops/control-plane-ca
    configMap:
      name: {{ $tls.caConfigMap.name | default (printf "%s-ca" (include "pipeops.name" (dict "root" .root "name" "control-plane"))) }}
      items:
        - key: {{ empty $tls.caConfigMap.name | ternary "ca.crt" $tls.caConfigMap.key }}
          path: ca.crt
  {{- end }}
  {{- with $tls.clientSecretName }}
  - name: control-plane-client
    mountPath: /etc/pipeops/control-plane-client
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
# A new token, CA or proxy in the values means new pods; a token or certificate changed in an existing Secret is read from the file.
checksum: {{ list $pipeops.token $tls.ca $proxy.url | toJson | sha256sum }}
egress:
  - ports:
      {{- range uniq $ports }}
      - port: {{ . }}
        protocol: TCP
      {{- end }}
  {{- with $agent.tunnel.forwards }}
  # Where agent.tunnel.forwards lead.
  - ports:
      {{- range . }}
      - port: {{ regexFind "[0-9]+$" .local_addr }}
        protocol: {{ .protocol | default "tcp" | upper }}
      {{- end }}
  {{- end }}
  {{- if and .values.tunnels.enabled $agent.services.allow }}
  # The pods behind Services, on whatever ports they listen; which Services that may be is decided by the process (agent.services).
  - to:
      - namespaceSelector: {}
  {{- end }}
{{- end -}}
