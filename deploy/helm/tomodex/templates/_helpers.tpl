{{- define "tomodex.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "tomodex.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tomodex.labels" -}}
{{ include "tomodex.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "tomodex.account" -}}
{{ .Values.serviceAccount.name | default (ternary (include "tomodex.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "tomodex.image" -}}
{{ .Values.image.repository }}:{{ .tag | default .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Whether the queue is one that several machines share. */}}
{{- define "tomodex.shared" -}}
{{- if hasPrefix "kafka" (.Values.settings.queue | default "") }}yes{{ end }}
{{- end }}

{{/* What cannot work is refused here, before it runs with two queues that know nothing of each other. */}}
{{- define "tomodex.require" -}}
{{- $serve := .Values.settings.serve | default dict }}
{{- if not (or $serve.token .Values.settings.access) }}
{{- fail "others can reach `serve`: set settings.serve.token (as file:/run/secrets/NAME/KEY) or settings.access" }}
{{- end }}
{{- $receive := .Values.settings.receive | default dict }}
{{- if and .Values.receive.enabled (not (or $receive.allow $receive.peers)) }}
{{- fail "others can reach `receive`: settings.receive.allow or settings.receive.peers says who may push" }}
{{- end }}
{{- $more := or (gt (int .Values.workers.replicas) 0) .Values.workers.scaling.by .Values.deliver.enabled }}
{{- if and $more (not (include "tomodex.shared" .)) }}
{{- fail "workers and deliver need a queue that pods share: settings.queue as kafka://broker:9092/tomodex" }}
{{- end }}
{{- if and $more (not .Values.pseudonymKey.secret) }}
{{- fail "workers and deliver need the same key of pseudonyms: pseudonymKey.secret" }}
{{- end }}
{{- if and .Values.deliver.enabled (hasPrefix "duckdb" (.Values.settings.index | default "duckdb")) }}
{{- fail "deliver needs an index that pods share: settings.index as elasticsearch+https://..." }}
{{- end }}
{{- end }}

{{/* Settings of the pod with the data folder, and of those without. */}}
{{- define "tomodex.settings" -}}
{{- $ours := dict "serve" (dict "host" "0.0.0.0" "port" 8042) }}
{{- if .Values.receive.enabled }}{{ $_ := set $ours "receive" (dict "host" "0.0.0.0" "port" 11112) }}{{ end }}
{{- if .Values.pseudonymKey.secret }}{{ $_ := set $ours "pseudonym_key_file" (printf "/run/pseudonym/%s" .Values.pseudonymKey.key) }}{{ end }}
{{- if .Values.deliver.enabled }}{{ $_ := set $ours "delivery" "apart" }}{{ end }}
{{- $_ := set $ours "workers" (int .Values.run.workers) }}
{{- mergeOverwrite (deepCopy .Values.settings) $ours | toToml }}
{{- end }}

{{- define "tomodex.workerSettings" -}}
{{- $ours := dict "daily_at" "" "delivery" "apart" }}
{{- /* Folders and buckets are known to the data folder that has listed them, and what is pushed lies there. */}}
{{- $avoid := .Values.settings.avoid | default list }}
{{- range $name, $url := .Values.settings.sources | default dict }}
{{- if or (hasPrefix "/" $url) (hasPrefix "folder:" $url) (hasPrefix "s3:" $url) }}{{ $avoid = append $avoid $name }}{{ end }}
{{- end }}
{{- if .Values.receive.enabled }}{{ $avoid = append $avoid "spool:///data/spool" }}{{ end }}
{{- $_ := set $ours "avoid" (uniq $avoid) }}
{{- $_ := set $ours "workers" (int .Values.workers.processes) }}
{{- $_ := set $ours "finish_s" (int .Values.workers.finishSeconds) }}
{{- $_ := set $ours "pseudonym_key_file" (printf "/run/pseudonym/%s" .Values.pseudonymKey.key) }}
{{- mergeOverwrite (omit (deepCopy .Values.settings) "serve" "receive" "access") $ours | toToml }}
{{- end }}

{{- define "tomodex.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "tomodex.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "tomodex.environment" -}}
env:
  - name: TOMODEX_CONFIG
    value: /etc/tomodex/{{ .file }}
{{- with .Values.secretEnvironment }}
envFrom:
  {{- range . }}
  - secretRef:
      name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "tomodex.mounts" -}}
- name: data
  mountPath: /data
- name: scratch
  mountPath: /tmp
- name: settings
  mountPath: /etc/tomodex
  readOnly: true
{{- if .Values.weights.existingClaim }}
- name: weights
  mountPath: /weights
  readOnly: true
{{- end }}
{{- if .Values.pseudonymKey.secret }}
- name: pseudonym
  mountPath: /run/pseudonym
  readOnly: true
{{- end }}
{{- range .Values.secrets }}
- name: secret-{{ . }}
  mountPath: /run/secrets/{{ . }}
  readOnly: true
{{- end }}
{{- end }}

{{- define "tomodex.volumes" -}}
- name: scratch
  emptyDir:
    sizeLimit: {{ .Values.scratch.size }}
- name: settings
  configMap:
    name: {{ include "tomodex.name" . }}
{{- with .Values.weights.existingClaim }}
- name: weights
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
{{- end }}
{{- with .Values.pseudonymKey }}
{{- if .secret }}
- name: pseudonym
  secret:
    secretName: {{ .secret }}
    items:
      - key: {{ .key }}
        path: {{ .key }}
{{- end }}
{{- end }}
{{- range .Values.secrets }}
- name: secret-{{ . }}
  secret:
    secretName: {{ . }}
{{- end }}
{{- end }}

{{/* Its main loop goes round; what others do has no part in it. */}}
{{- define "tomodex.alive" -}}
startupProbe:
  exec:
    command: [tomodex, health, {{ . }}]
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 30
livenessProbe:
  exec:
    command: [tomodex, health, {{ . }}]
  periodSeconds: 60
  timeoutSeconds: 20
  failureThreshold: 3
{{- end }}

{{- define "tomodex.pod" -}}
serviceAccountName: {{ include "tomodex.account" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "tomodex.podSecurity" . | nindent 2 }}
{{- end }}
