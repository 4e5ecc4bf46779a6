{{- define "pipeops.network" -}}
{{- $policy := .root.Values.networkPolicy }}
{{- with .spec.service }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ include "pipeops.name" $ }}
  labels:
    {{- include "pipeops.labels" $ | nindent 4 }}
spec:
  type: ClusterIP
  selector:
    {{- include "pipeops.selector" $ | nindent 4 }}
  ports:
    {{- range $name, $port := . }}
    - name: {{ $name }}
      port: {{ $port }}
      targetPort: {{ $name }}
      protocol: TCP
    {{- end }}
{{- end }}
{{- if $policy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "pipeops.name" . }}
  labels:
    {{- include "pipeops.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "pipeops.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  {{- $ingress := concat (.spec.ingress | default list) .values.networkPolicy.extraIngress }}
  {{- if and .spec.bus $policy.metricsFrom }}
  {{- $ingress = append $ingress (dict "from" $policy.metricsFrom "ports" (list (dict "port" "http" "protocol" "TCP"))) }}
  {{- end }}
  ingress:
    {{- toYaml ($ingress | default list) | nindent 4 }}
  {{- $egress := include "pipeops.egress" . | fromYamlArray }}
  {{- $egress = concat $egress (.spec.egress | default list) .values.networkPolicy.extraEgress }}
  egress:
    {{- toYaml ($egress | default list) | nindent 4 }}
{{- end }}
{{- end -}}

{{- define "pipeops.egress" -}}
{{- if .spec.bus }}
# Names; where the cluster's DNS runs differs too much to say more.
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- if hasKey .root.Subcharts "nats" }}
- to:
    - podSelector:
        matchLabels:
          {{- include "pipeops.selector" (dict "root" .root "name" "nats") | nindent 10 }}
  ports:
    - port: client
      protocol: TCP
{{- else }}
- ports:
    - port: {{ include "pipeops.bus.url" .root | splitList ":" | last }}
      protocol: TCP
{{- end }}
{{- with .root.Values.agent.telemetry.otlpEndpoint }}
- ports:
    - port: {{ include "pipeops.urlPort" . }}
      protocol: TCP
{{- end }}
{{- end }}
{{- if .spec.kubernetes }}
- ports:
    {{- $ports := .root.Values.networkPolicy.kubernetesApiPorts }}
    {{- with .root.Values.agent.kubernetes.apiUrl }}
    {{- $ports = append $ports (include "pipeops.urlPort" . | int) | uniq }}
    {{- end }}
    {{- range $ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end }}
{{- end -}}
