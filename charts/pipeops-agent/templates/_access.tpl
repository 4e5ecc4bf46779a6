{{- /* ServiceAccount, and exactly the rights the service declares. */ -}}
{{- define "pipeops.access" -}}
{{- $name := include "pipeops.name" . }}
{{- $labels := include "pipeops.labels" . }}
{{- $subject := dict "kind" "ServiceAccount" "name" (include "pipeops.serviceAccount" .) "namespace" .root.Release.Namespace }}
{{- $clusterName := printf "%s-%s" .root.Release.Namespace $name }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "pipeops.serviceAccount" . }}
  labels:
    {{- $labels | nindent 4 }}
  {{- with .values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- if .root.Values.rbac.create }}
{{- with .spec.clusterRules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $clusterName }}
  labels:
    {{- $labels | nindent 4 }}
rules:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or .spec.clusterRules .spec.clusterRole }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  # A binding's role cannot be changed: a name per role makes helm replace it.
  name: {{ list $clusterName .spec.clusterRole | compact | join "-" }}
  labels:
    {{- $labels | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .spec.clusterRole | default $clusterName }}
subjects:
  - {{ toYaml $subject | nindent 4 | trim }}
{{- end }}
{{- with .spec.rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}
  labels:
    {{- $labels | nindent 4 }}
rules:
  {{- toYaml . | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}
  labels:
    {{- $labels | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $name }}
subjects:
  - {{ toYaml $subject | nindent 4 | trim }}
{{- end }}
{{- range .spec.bindings }}
{{- $key := list .subject .clusterRole .namespace | toJson | sha256sum | trunc 10 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ empty .namespace | ternary "ClusterRoleBinding" "RoleBinding" }}
metadata:
  name: {{ $clusterName }}-{{ $key }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- $labels | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .clusterRole }}
subjects:
  - apiGroup: rbac.authorization.k8s.io
    {{- toYaml .subject | nindent 4 }}
{{- end }}
{{- end }}
{{- end -}}
