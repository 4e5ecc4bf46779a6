{{- define "gateway-link.service" -}}
{{- $agent := .root.Values.agent -}}
{{- $pipeops := $agent.pipeops -}}
{{- $url := required "agent.pipeops.apiUrl is required: the control plane's https://host[:port]" $pipeops.apiUrl -}}
{{- $ports := concat (list (include "pipeops.urlPort" $url | int)) .root.Values.networkPolicy.controlPlanePorts | uniq -}}
bus: true
env:
  PIPEOPS_API_URL: {{ $url | quote }}
  PIPEOPS_TOKEN_FILE: /etc/pipeops/control-plane/token
  PIPEOPS_CLUSTER_NAME: {{ required "agent.cluster.name is required: the name under which this cluster registers" $agent.cluster.name | quote }}
  {{- with $agent.labels }}
  PIPEOPS_AGENT_LABELS: {{ toRawJson . | quote }}
  {{- end }}
  {{- if $pipeops.tls.caFile }}
  PIPEOPS_TLS_CA_FILE: {{ $pipeops.tls.caFile | quote }}
  {{- else if or $pipeops.tls.ca $pipeops.tls.caConfigMap.name }}
  PIPEOPS_TLS_CA_FILE: /etc/pipeops/control-plane-ca/ca.crt
  {{- end }}
  {{- if $pipeops.tls.insecureSkipVerify }}
  PIPEOPS_TLS_INSECURE_SKIP_VERIFY: "true"
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
  {{- if or $pipeops.tls.ca $pipeops.tls.caConfigMap.name }}
  - name: control-plane-ca
    mountPath: /etc/pipeops/control-plane-ca
    configMap:
      name: {{ $pipeops.tls.caConfigMap.name | default (printf "%s-ca" (include "pipeops.name" (dict "root" .root "name" "control-plane"))) }}
      items:
        - key: {{ empty $pipeops.tls.caConfigMap.name | ternary "ca.crt" $pipeops.tls.caConfigMap.key }}
          path: ca.crt
  {{- end }}
# A new token or CA in the values means new pods; one changed in an existing Secret is read from the file.
checksum: {{ list $pipeops.token $pipeops.tls.ca | toJson | sha256sum }}
egress:
  - ports:
      {{- range $ports }}
      - port: {{ . }}
        protocol: TCP
      {{- end }}
{{- end -}}
