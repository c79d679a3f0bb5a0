{{- /* Names and labels, in Gen3 mode those of gen3.yaml. */}}
{{- define "wts.name" -}}
{{- $name := .Values.nameOverride | default "wts" }}
{{- if eq (include "wts.gen3" .) "true" }}wts-deployment
{{- else if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}{{ .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "wts.account" -}}
{{- $account := .Values.serviceAccount }}
{{- if eq (include "wts.gen3" .) "true" }}{{ $account.name | default "workspace-token-service" }}
{{- else }}{{ $account.name | default (ternary (include "wts.name" .) "default" $account.create) }}{{ end }}
{{- end }}

{{- define "wts.selector" -}}
{{- if eq (include "wts.gen3" .) "true" }}{{ include "wts.gen3.selector" . }}{{ else -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default "wts" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- end }}

{{- define "wts.labels" -}}
{{- if eq (include "wts.gen3" .) "true" }}{{ include "wts.gen3.labels" . }}{{ else -}}
{{- $ours := dict "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version) }}
{{- mergeOverwrite (deepCopy .Values.commonLabels) $ours (include "wts.selector" . | fromYaml) | toYaml }}
{{- end }}
{{- end }}

{{- define "wts.podLabels" -}}
{{- mergeOverwrite (deepCopy .Values.podLabels) (include "wts.labels" . | fromYaml) | toYaml }}
{{- end }}

{{- define "wts.podAnnotations" -}}
{{- $scraped := dict "prometheus.io/scrape" "true" "prometheus.io/path" "/metrics" "prometheus.io/port" "9090" }}
{{- if or (not .Values.metrics.annotations) (eq (toString .Values.metricsEnabled) "false") }}{{ $scraped = dict }}{{ end }}
{{- with mergeOverwrite $scraped (deepCopy .Values.podAnnotations) }}{{ toYaml . }}{{ end }}
{{- end }}

{{- define "wts.keyring" -}}
{{ .Values.keyringSecret | default (printf "%s-keyring" (include "wts.name" .)) }}
{{- end }}

{{- /* Who may set the annotation that says whose pod it is, as JSON. */}}
{{- define "wts.controllers" -}}
{{- $usual := ternary (printf "system:serviceaccount:%s:hatchery-service-account" .Release.Namespace) "system:serviceaccount:jupyterhub:hub" (eq (include "wts.gen3" .) "true") }}
{{- .Values.workspaces.controllers | default (list $usual) | toJson }}
{{- end }}

{{- /* Whether a thing is to be made, by its value `enabled`: "auto" is on, but off with Gen3's values, whose
users did not ask for it. Takes the root and the value. */}}
{{- define "wts.on" -}}
{{- $value := index . 1 | toString }}
{{- if eq $value "auto" }}{{ ne (include "wts.gen3" (index . 0)) "true" }}{{ else }}{{ $value }}{{ end }}
{{- end }}

{{- /* What the chart sets, and the values over it, key by key; null takes a key away. Takes the two. */}}
{{- define "wts.over" -}}
{{- $merged := index . 0 }}
{{- range $key, $value := index . 1 }}
{{- if kindIs "invalid" $value }}{{ $_ := unset $merged $key }}{{ else }}{{ $_ := set $merged $key $value }}{{ end }}
{{- end }}
{{- toYaml $merged }}
{{- end }}

{{- /* The pod's security context. Gen3's probes and services ask port 80, which a process that is not root may open
by this sysctl alone, one that Kubernetes counts as safe: the right of the program's file is lost without privilege escalation. */}}
{{- define "wts.podSecurityContext" -}}
{{- $context := dict "runAsNonRoot" true "runAsUser" 1000 "runAsGroup" 1000 "fsGroup" 1000 "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- if eq (include "wts.gen3" .) "true" }}
{{- $_ := set $context "sysctls" (list (dict "name" "net.ipv4.ip_unprivileged_port_start" "value" "0")) }}
{{- end }}
{{- include "wts.over" (list $context .Values.podSecurityContext) }}
{{- end }}

{{- define "wts.securityContext" -}}
{{- include "wts.over" (list (dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL"))) .Values.securityContext) }}
{{- end }}

{{- /* "true" where this rendering sees the cluster: each of these is in every cluster. `helm template`, a client's
dry run and Argo CD see none. The first can be read with rights in the release's namespace alone; before
`--create-namespace` there is only the second. */}}
{{- define "wts.cluster" -}}
{{- if or (lookup "v1" "ConfigMap" .Release.Namespace "kube-root-ca.crt") (lookup "v1" "Namespace" "" "kube-system") }}true{{ end }}
{{- end }}

{{- /* Bytes of a quantity, such as 512Mi, or 0 for none. */}}
{{- define "wts.bytes" -}}
{{- $text := kindIs "string" . | ternary (toString .) (int64 . | toString) }}
{{- $number := regexFind "^[0-9.]+" $text }}
{{- $units := dict "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "m" 0.001 }}
{{- mulf (float64 $number) (dig (trimPrefix $number $text) 1 $units) | int64 }}
{{- end }}

{{- /* The container's memory. The service takes 80 % of the limit for its GOMEMLIMIT (it reads the limit itself; the
chart sets none, so that one in extraEnv holds), and near that it collects garbage instead of growing. A target
above would never be reached before the pod suffers. Empty where the target is below; else what it may be. */}}
{{- define "wts.memory.most" -}}
{{- $limit := include "wts.bytes" (index . 0 | default 0) | int64 }}
{{- $target := include "wts.bytes" (index . 1) | int64 }}
{{- if and $limit (gt (mul $target 100) (mul $limit 70)) }}{{ div (mul $limit 70) (mul 100 1048576) }}Mi{{ end }}
{{- end }}

{{- /* How long the service takes to stop: within the time after which its pod is killed. */}}
{{- define "wts.stop" -}}
{{ sub (int .Values.terminationGracePeriodSeconds) 5 }}s
{{- end }}

{{- /* The configuration: the operator's, and what the chart knows. */}}
{{- define "wts.config" -}}
{{- $own := dict
  "listen" (list ":8080")
  "metrics_listen" ":9090"
  "keyring_file" "keyring/wts-keyring"
  "spool_dir" "/var/lib/wts"
  "drain_delay" "5s"
  "stop_timeout" (include "wts.stop" .)
  "default_provider" "main"
  "database" (dict "url_file" "database/url")
  "kubernetes" (dict
    "enabled" (not (empty .Values.workspaces.namespaces))
    "namespaces" .Values.workspaces.namespaces
    "annotations" .Values.workspaces.annotations
    "disable_peer_address" (not .Values.workspaces.peerAddress)
    "service_account" (dict "audience" .Values.workspaces.audience)) }}
{{- mergeOverwrite $own (deepCopy .Values.config) | toYaml }}
{{- end }}

{{- /* "true" where the chart stands in for gen3-helm's: told so, or given its values. */}}
{{- define "wts.gen3" -}}
{{- if eq (toString .Values.gen3.enabled) "auto" -}}
{{- and (not .Values.config.url) (or (hasKey .Values "oidc_job_enabled") (hasKey .Values "postgres")) -}}
{{- else -}}
{{- eq (toString .Values.gen3.enabled) "true" -}}
{{- end -}}
{{- end }}

{{- /* gen3-helm's values name the Python service's image: this chart runs ours in its place. */}}
{{- define "wts.image" -}}
{{- $repository := .Values.image.repository }}
{{- $tag := .Values.image.tag | default .Chart.AppVersion }}
{{- if eq $repository "quay.io/cdis/workspace-token-service" }}{{ $repository = "wts" }}{{ $tag = .Chart.AppVersion }}{{ end }}
{{- include "wts.registry" . }}{{ $repository }}:{{ $tag }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "wts.registry" -}}
{{- with (.Values.global | default dict).imageRegistry }}{{ . | trimSuffix "/" }}/{{ end }}
{{- end }}

{{- /* Where the pod runs, and who may pull its image. Replicas go to different nodes where they can. */}}
{{- define "wts.scheduling" -}}
{{- $global := .Values.global | default dict }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $pull := .Values.imagePullSecrets }}
{{- range $global.imagePullSecrets }}{{ $pull = append $pull (kindIs "string" . | ternary (dict "name" .) .) }}{{ end }}
{{- with $pull }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- $spread := .Values.topologySpreadConstraints }}
{{- $asked := $global.topologySpread | default dict }}
{{- if eq (include "wts.gen3" .) "true" }}
{{- if $asked.enabled }}
{{- $spread = append $spread (dict "maxSkew" ($asked.maxSkew | default 1) "topologyKey" ($asked.topologyKey | default "topology.kubernetes.io/zone") "whenUnsatisfiable" "ScheduleAnyway") }}
{{- end }}
{{- else if not $spread }}
{{- $spread = list (dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway") }}
{{- end }}
{{- if $spread }}
topologySpreadConstraints:
{{- range $spread }}
  - {{- merge (dict) . (dict "labelSelector" (dict "matchLabels" (include "wts.selector" $ | fromYaml))) | toYaml | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Files of client secrets, and what the values add. */}}
{{- define "wts.mounts" -}}
{{- $base := ternary "/wts" "/etc/wts" (eq (include "wts.gen3" .) "true") }}
{{- range .Values.clientSecrets }}
- {name: {{ printf "client-%s" . }}, mountPath: {{ printf "%s/clients/%s" $base . }}, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "wts.volumes" -}}
{{- range .Values.clientSecrets }}
- {name: {{ printf "client-%s" . }}, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* What is set of gen3-helm's values that have no effect here. */}}
{{- define "wts.gen3.ignored" -}}
{{- range .Files.Lines "files/gen3-ignored.txt" }}
{{- if and . (not (hasPrefix "#" .)) }}
{{- $value := $.Values }}
{{- range splitList "." . }}{{ $value = kindIs "map" $value | ternary (get (default dict $value) .) "" }}{{ end }}
{{- if $value }}{{ . }} {{ end }}
{{- end }}
{{- end }}
{{- end }}
