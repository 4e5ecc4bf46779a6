{{- /* Environment of a service: {NAME: string or EnvVarSource}. */ -}}
{{- define "pipeops.env" -}}
{{- $agent := .root.Values.agent -}}
{{- $env := dict -}}
{{- if .spec.bus -}}
{{- $_ := set $env "PIPEOPS_SERVER_LISTEN" .values.server.listen -}}
{{- $_ := set $env "PIPEOPS_LOG_LEVEL" (.values.logLevel | default $agent.logging.level) -}}
{{- $_ := set $env "PIPEOPS_LOG_FORMAT" $agent.logging.format -}}
{{- $_ := set $env "PIPEOPS_SHUTDOWN_TIMEOUT" (printf "%ds" (sub (int .values.terminationGracePeriodSeconds) 5)) -}}
{{- $_ := set $env "PIPEOPS_BUS_URL" (include "pipeops.bus.url" .root) -}}
{{- $_ := set $env "PIPEOPS_BUS_USER" .name -}}
{{- $_ := set $env "PIPEOPS_BUS_PASSWORD_FILE" "/etc/pipeops/bus/password" -}}
{{- with $agent.telemetry.otlpEndpoint -}}
{{- $_ := set $env "PIPEOPS_TELEMETRY_OTLP_ENDPOINT" . -}}
{{- $_ := set $env "PIPEOPS_TELEMETRY_SAMPLE_RATIO" ($agent.telemetry.sampleRatio | toString) -}}
{{- end -}}
{{- end -}}
{{- if .spec.kubernetes -}}
{{- $_ := set $env "PIPEOPS_KUBERNETES_TOKEN_FILE" "/var/run/secrets/kubernetes.io/serviceaccount/token" -}}
{{- $_ := set $env "PIPEOPS_KUBERNETES_CA_FILE" "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt" -}}
{{- with $agent.kubernetes.apiUrl -}}
{{- $_ := set $env "PIPEOPS_KUBERNETES_API_URL" . -}}
{{- end -}}
{{- end -}}
{{- range $key, $value := .spec.env -}}
{{- $_ := set $env $key $value -}}
{{- end -}}
{{- range .values.extraEnv -}}
{{- $_ := unset $env .name -}}
{{- end -}}
{{- range $key := keys $env | sortAlpha }}
{{- $value := index $env $key }}
- name: {{ $key }}
  {{- if kindIs "map" $value }}
  valueFrom:
    {{- toYaml $value | nindent 4 }}
  {{- else }}
  value: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Volumes with their mountPath beside them; split into `volumes` and `volumeMounts` below. */ -}}
{{- define "pipeops.volumes" -}}
{{- if .spec.bus }}
- name: bus
  mountPath: /etc/pipeops/bus
  secret:
    secretName: {{ include "pipeops.bus.secret" . }}
    defaultMode: 0440
    items:
      - key: {{ empty .root.Values.bus.existingSecret | ternary "password" .name }}
        path: password
{{- end }}
{{- if .spec.kubernetes }}
- name: kubernetes
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: {{ .root.Values.agent.kubernetes.tokenExpirationSeconds }}
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                apiVersion: v1
                fieldPath: metadata.namespace
{{- end }}
{{- with .spec.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "pipeops.deployment" -}}
{{- $volumes := include "pipeops.volumes" . | fromYamlArray }}
{{- $ports := .spec.ports }}
{{- if not $ports }}{{ $ports = dict "http" (include "pipeops.port" .values.server.listen | int) }}{{ end }}
{{- $probes := .spec.probes | default (dict "port" "http" "liveness" "/health" "readiness" "/ready") }}
{{- $annotations := mustMergeOverwrite dict .root.Values.podAnnotations .values.podAnnotations }}
{{- $user := index .users .name | default dict }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "pipeops.name" . }}
  labels:
    {{- include "pipeops.labels" . | nindent 4 }}
spec:
  replicas: {{ .values.replicaCount }}
  revisionHistoryLimit: 3
  strategy:
    {{- if .spec.strategy }}
    {{- toYaml .spec.strategy | nindent 4 }}
    {{- else }}
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
    {{- end }}
  selector:
    matchLabels:
      {{- include "pipeops.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- with mustMergeOverwrite dict .root.Values.podLabels .values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- include "pipeops.selector" . | nindent 8 }}
        app.kubernetes.io/part-of: pipeops-agent
        {{- if .spec.bus }}
        pipeops.io/bus: client
        {{- end }}
      annotations:
        # What the service reads only at its start; a change makes new pods.
        checksum/config: {{ list $user.hash .spec.checksum | toJson | sha256sum }}
        {{- with $annotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "pipeops.serviceAccount" . }}
      automountServiceAccountToken: false
      # A Service called pipeops-… would otherwise put variables into the pod that look like settings.
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ .values.terminationGracePeriodSeconds }}
      {{- with .root.Values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- toYaml .root.Values.podSecurityContext | nindent 8 }}
      containers:
        - name: {{ .name }}
          image: {{ include "pipeops.image" . }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          {{- with .spec.command }}
          command:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with .spec.args }}
          args:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with include "pipeops.env" . | trim }}
          env:
            {{- . | nindent 12 }}
          {{- end }}
          ports:
            {{- range $name, $port := $ports }}
            - name: {{ $name }}
              containerPort: {{ $port }}
              protocol: TCP
            {{- end }}
          livenessProbe:
            httpGet:
              path: {{ $probes.liveness }}
              port: {{ $probes.port }}
            periodSeconds: 10
            timeoutSeconds: 3
            failureThreshold: 3
          readinessProbe:
            httpGet:
              path: {{ $probes.readiness }}
              port: {{ $probes.port }}
            periodSeconds: 5
            timeoutSeconds: 3
            failureThreshold: 2
          securityContext:
            {{- toYaml .root.Values.securityContext | nindent 12 }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          {{- if or $volumes .values.extraVolumeMounts }}
          volumeMounts:
            {{- range $volumes }}
            - name: {{ .name }}
              mountPath: {{ .mountPath }}
              readOnly: true
            {{- end }}
            {{- with .values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- end }}
      {{- if or $volumes .values.extraVolumes }}
      volumes:
        {{- range $volumes }}
        - {{ omit . "mountPath" | toYaml | nindent 10 | trim }}
        {{- end }}
        {{- with .values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      {{- with .values.nodeSelector | default .root.Values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.tolerations | default .root.Values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if .values.topologySpreadConstraints }}
      topologySpreadConstraints:
        {{- toYaml .values.topologySpreadConstraints | nindent 8 }}
      {{- else if gt (int .values.replicaCount) 1 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "pipeops.selector" . | nindent 14 }}
      {{- end }}
{{- if gt (int .values.replicaCount) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "pipeops.name" . }}
  labels:
    {{- include "pipeops.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "pipeops.selector" . | nindent 6 }}
{{- end }}
{{- end -}}
