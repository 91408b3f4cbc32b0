{{/* Names follow the release's name: the controllers look for the others by it. */}}
{{- define "weir.controller" -}}{{ .Release.Name }}-controller{{- end }}
{{- define "weir.proxy" -}}{{ .Release.Name }}-gateway-proxy{{- end }}
{{- define "weir.authority" -}}{{ .Release.Name }}-weir-authority{{- end }}
{{- define "weir.lease" -}}{{ .Release.Name }}-weir-leader{{- end }}
{{/* Of objects without a namespace: with a letter between the two that neither name can have, no two releases meet. */}}
{{- define "weir.clusterName" -}}{{ .Release.Namespace }}:{{ include "weir.controller" . }}{{- end }}

{{/* On everything that belongs to this installation, also what the controllers make. */}}
{{- define "weir.instance" -}}
{{- $name := printf "%s.%s" .Release.Namespace .Release.Name -}}
{{- if gt (len $name) 63 -}}
{{- fail (printf "the namespace and the name of the release are %d characters long together; 62 fit into a label" (sub (len $name) 1)) -}}
{{- end -}}
{{- if gt (len .Release.Name) 46 -}}
{{- fail (printf "the name of the release is %d characters long; 46 leave room for those made from it" (len .Release.Name)) -}}
{{- end -}}
{{- if contains "." .Release.Name -}}
{{- fail "the name of the release has a dot; a Service's name, which is made from it, cannot have one" -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]" .Release.Name) -}}
{{- fail "the name of the release does not begin with a letter; a Service's name, which is made from it, has to" -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{- define "weir.labels" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "weir.controllerSelector" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{/* No pod of a Gateway's own data plane has these two together, whatever labels its Gateway asks for. */}}
{{- define "weir.proxySelector" -}}
weir.dev/instance: {{ include "weir.instance" . }}
weir.dev/provisioned: shared
{{- end }}

{{/* What `weir controller` would refuse at its start. */}}
{{- define "weir.certificates" -}}
{{- $life := .authorityLifetimeSeconds | int64 -}}
{{- $least := mul 3 (add (.lifetimeSeconds | int64) (.authorityOverlapSeconds | int64)) -}}
{{- if lt $life $least -}}
{{- fail (printf "certificates.authorityLifetimeSeconds is %d: three times lifetimeSeconds and authorityOverlapSeconds together are %d, and it may not be less" $life $least) -}}
{{- end -}}
{{- end }}

{{/* What the shared data plane could not do: end within its time, be of at least more pods than at most. */}}
{{- define "weir.proxyValues" -}}
{{- $delay := .drainDelaySeconds | int64 -}}
{{- $grace := .terminationGracePeriodSeconds | int64 -}}
{{- $least := add $delay 35 -}}
{{- if lt $grace $least -}}
{{- fail (printf "gatewayProxy.terminationGracePeriodSeconds is %d: drainDelaySeconds (%d), 30 for what is under way and 5 to spare are %d, and it may not be less" $grace $delay $least) -}}
{{- end -}}
{{- with .autoscaling -}}
{{- if and .enabled (gt (.minReplicas | int64) (.maxReplicas | int64)) -}}
{{- fail (printf "gatewayProxy.autoscaling.minReplicas is %d: more than maxReplicas, which is %d" (.minReplicas | int64) (.maxReplicas | int64)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "weir.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* What a pod of the chart says about where it runs. */}}
{{- define "weir.placing" -}}
{{- with .imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "weir.resources" -}}
requests:
  {{- toYaml .requests | nindent 2 }}
{{- with .limits }}
limits:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* As the Pod Security Standard `restricted` asks. */}}
{{- define "weir.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
