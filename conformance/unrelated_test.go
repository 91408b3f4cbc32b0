package conformance

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const (
	// unrelated is the namespace, Gateway and Service that no test of the suite knows.
	unrelated = "unrelated"
	// unrelatedDeadline bounds the wait until all routes are accepted.
	unrelatedDeadline = 3 * time.Minute
)

// serveUnrelated makes a Gateway with `count` routes, a hostname for each, and waits until all are accepted. What is there
// from an earlier round stays.
func serveUnrelated(t *testing.T, c client.Client, class string, count int) {
	objects := []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: unrelated}},
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: unrelated, Namespace: unrelated},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
		},
		&gatewayv1.Gateway{
			ObjectMeta: metav1.ObjectMeta{Name: unrelated, Namespace: unrelated},
			Spec: gatewayv1.GatewaySpec{
				GatewayClassName: gatewayv1.ObjectName(class),
				Listeners:        []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}},
			},
		},
	}
	for index := range count {
		objects = append(objects, unrelatedRoute(index))
	}
	for _, object := range objects {
		if err := c.Create(t.Context(), object); err != nil && !apierrors.IsAlreadyExists(err) {
			require.NoError(t, err, "creating %s", object.GetName())
		}
	}
	accepted := func(ctx context.Context) (bool, error) {
		list := &gatewayv1.HTTPRouteList{}
		if err := c.List(ctx, list, client.InNamespace(unrelated)); err != nil {
			return false, err
		}
		ready := 0
		for _, route := range list.Items {
			for _, parent := range route.Status.Parents {
				if meta.IsStatusConditionTrue(parent.Conditions, string(gatewayv1.RouteConditionAccepted)) {
					ready++
				}
			}
		}
		return ready == count, nil
	}
	err := wait.PollUntilContextTimeout(t.Context(), 500*time.Millisecond, unrelatedDeadline, true, accepted)
	require.NoError(t, err, "%d unrelated routes were not accepted", count)
}

func unrelatedRoute(index int) *gatewayv1.HTTPRoute {
	name, port := fmt.Sprintf("unrelated-%d", index), gatewayv1.PortNumber(80)
	backend := gatewayv1.HTTPBackendRef{BackendRef: gatewayv1.BackendRef{
		BackendObjectReference: gatewayv1.BackendObjectReference{Name: unrelated, Port: &port},
	}}
	return &gatewayv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: unrelated},
		Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: unrelated}}},
			Hostnames:       []gatewayv1.Hostname{gatewayv1.Hostname(name + ".example")},
			Rules:           []gatewayv1.HTTPRouteRule{{BackendRefs: []gatewayv1.HTTPBackendRef{backend}}},
		},
	}
}
