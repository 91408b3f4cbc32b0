// Prints how the built-in kinds are written in protobuf, from the tags of Kubernetes' Go types:
//
//	go run . > fields.txt
//
// A line without indent names a message (as OpenAPI names its schema); the indented ones after it are its fields: number, JSON name, form.
// Forms: ? may be absent, ! is written even when zero, ~ belongs to the message around it, [x] a list, {x} a map by string.
package main

import (
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"

	admissionregistration "k8s.io/api/admissionregistration/v1"
	apps "k8s.io/api/apps/v1"
	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	batch "k8s.io/api/batch/v1"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	events "k8s.io/api/events/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	rbac "k8s.io/api/rbac/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var roots = []any{
	core.Binding{}, core.ConfigMap{}, core.Endpoints{}, core.Event{}, core.Namespace{}, core.Node{}, core.PersistentVolume{},
	core.PersistentVolumeClaim{}, core.Pod{}, core.PodTemplate{}, core.Secret{}, core.Service{}, core.ServiceAccount{},
	apps.ControllerRevision{}, apps.DaemonSet{}, apps.Deployment{}, apps.ReplicaSet{}, apps.StatefulSet{},
	events.Event{}, authentication.SelfSubjectReview{}, authentication.TokenRequest{}, authentication.TokenReview{}, authorization.LocalSubjectAccessReview{},
	authorization.SelfSubjectAccessReview{}, authorization.SelfSubjectRulesReview{}, authorization.SubjectAccessReview{},
	autoscaling.HorizontalPodAutoscaler{}, autoscalingv1.Scale{}, batch.CronJob{}, batch.Job{}, networking.IngressClass{},
	networking.Ingress{}, networking.NetworkPolicy{}, policy.PodDisruptionBudget{}, policy.Eviction{}, rbac.ClusterRole{},
	rbac.ClusterRoleBinding{}, rbac.Role{}, rbac.RoleBinding{}, admissionregistration.ValidatingAdmissionPolicy{},
	admissionregistration.ValidatingAdmissionPolicyBinding{}, apiextensions.CustomResourceDefinition{}, coordination.Lease{},
	discovery.EndpointSlice{}, meta.DeleteOptions{},
}

// Types with a JSON form of their own; the reader knows them by name.
var special = map[string]string{
	"k8s.io/apimachinery/pkg/api/resource.Quantity":                                     "Quantity",
	"k8s.io/apimachinery/pkg/util/intstr.IntOrString":                                   "IntOrString",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Time":                                         "Time",
	"k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime":                                    "MicroTime",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":                                     "Duration",
	"k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1":                                     "RawJson",
	"k8s.io/apimachinery/pkg/runtime.RawExtension":                                      "RawJson",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON":                     "RawJson",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrArray":   "SchemaOrArray",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrBool":    "SchemaOrBool",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrStringArray": "SchemaOrStrings",
}

var lines = map[string][]string{}

func full(t reflect.Type) string { return t.PkgPath() + "." + t.Name() }

func component(t reflect.Type) string {
	host, rest, _ := strings.Cut(t.PkgPath(), "/")
	parts := strings.Split(host, ".")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, ".") + "." + strings.ReplaceAll(rest, "/", ".") + "." + t.Name()
}

func kind(t reflect.Type) string {
	if name, ok := special[full(t)]; ok {
		return name
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Int32, reflect.Int64, reflect.Uint8, reflect.Int:
		return "int"
	case reflect.Float64:
		return "double"
	case reflect.Struct:
		visit(t)
		return component(t)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		if t.Name() != "" && t.Elem().Kind() == reflect.String {
			return "Strings" // a message whose field 1 is the list
		}
	}
	panic("no form for " + full(t) + " " + t.String())
}

func visit(t reflect.Type) {
	name := component(t)
	if _, ok := lines[name]; ok {
		return
	}
	lines[name] = nil
	var out []string
	for i := 0; i < t.NumField(); i++ {
		f := t.Field(i)
		tag := f.Tag.Get("protobuf")
		if tag == "" {
			continue
		}
		parts := strings.Split(tag, ",")
		jsonName, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		ft := f.Type
		flags := ""
		if ft.Kind() == reflect.Pointer {
			flags += "?"
			ft = ft.Elem()
		} else if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") && ft.Kind() != reflect.Struct && ft.Kind() != reflect.Slice && ft.Kind() != reflect.Map {
			flags += "!"
		}
		if jsonName == "" {
			flags, jsonName = "~", "."
		}
		switch {
		case ft.Kind() == reflect.Map:
			flags += "{" + kind(ft.Elem()) + "}"
			out = append(out, fmt.Sprintf(" %s %s %s", parts[1], jsonName, flags))
			continue
		case ft.Kind() == reflect.Slice && ft.Elem().Kind() != reflect.Uint8 && special[full(ft)] == "" && !(ft.Name() != "" && ft.Elem().Kind() == reflect.String && parts[2] == "opt"):
			el := ft.Elem()
			if el.Kind() == reflect.Pointer {
				el = el.Elem()
			}
			flags += "[" + kind(el) + "]"
			out = append(out, fmt.Sprintf(" %s %s %s", parts[1], jsonName, flags))
			continue
		}
		out = append(out, fmt.Sprintf(" %s %s %s%s", parts[1], jsonName, flags, kind(ft)))
	}
	lines[name] = out
}

func main() {
	for _, r := range roots {
		visit(reflect.TypeOf(r))
	}
	names := make([]string, 0, len(lines))
	for n := range lines {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintln(os.Stdout, n)
		for _, l := range lines[n] {
			fmt.Fprintln(os.Stdout, l)
		}
	}
}
