{{/* What the controllers need in each namespace that they look after. */}}
{{- define "weir.rules" -}}
# What users write: Gateways, routes and policies are read, and told what became of them.
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways, listenersets, httproutes, grpcroutes, tlsroutes, tcproutes, udproutes, backendtlspolicies, referencegrants]
  verbs: [get, list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways/status, listenersets/status, httproutes/status, grpcroutes/status, tlsroutes/status, tcproutes/status, udproutes/status, backendtlspolicies/status]
  verbs: [patch]
- apiGroups: [gateway.networking.x-k8s.io]
  resources: [xbackendtrafficpolicies]
  verbs: [get, list, watch]
- apiGroups: [gateway.networking.x-k8s.io]
  resources: [xbackendtrafficpolicies/status]
  verbs: [patch]
# The same for Weir's own kinds and the parameters of Kong's Operator.
- apiGroups: [weir.dev]
  resources: [backendpolicies, gatewayparameters]
  verbs: [get, list, watch]
- apiGroups: [weir.dev]
  resources: [backendpolicies/status, gatewayparameters/status]
  verbs: [patch]
- apiGroups: [gateway-operator.konghq.com]
  resources: [gatewayconfigurations]
  verbs: [get, list, watch]
- apiGroups: [gateway-operator.konghq.com]
  resources: [gatewayconfigurations/status]
  verbs: [patch]
# Where requests go: Services, and the endpoints behind them.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
# Certificates and keys of listeners and policies (Secrets), authorities (ConfigMaps). What is not of a type that Gateways
# refer to is dropped as it is read; with watchNamespaces other namespaces' Secrets cannot be read at all.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
# Ingresses of Kong's class get an event that says what Weir does with them.
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch]
# What is to be told about an object and is not in its status.
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
# A Gateway's data plane: made, kept as it should be, and taken away. ServiceAccounts have no rights; ConfigMaps hold the
# certificates by which data planes know the controllers.
- apiGroups: [""]
  resources: [services, serviceaccounts, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
