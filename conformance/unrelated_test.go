package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const (
	// unrelated is the namespace, Gateway and Deployment that no test of the suite knows.
	unrelated = "unrelated"
	// unrelatedPort is where the Deployment's pods listen.
	unrelatedPort = 3000
	// unrelatedDeadline bounds the wait until all routes are accepted, and until one answers.
	unrelatedDeadline = 3 * time.Minute
	// unrelatedPause lies between two requests while the suite runs.
	unrelatedPause = 20 * time.Millisecond
	// unrelatedComplaints is how many failures are told.
	unrelatedComplaints = 10
)

// unrelatedRoutes are HTTPRoutes that are served beside the suite's, each on a hostname and with a Service of its own.
type unrelatedRoutes struct {
	count  int
	socket string
	client *http.Client
}

// serveUnrelated makes a Gateway with `count` routes and waits until all are accepted and each has answered. What is there
// from an earlier round stays.
func serveUnrelated(t *testing.T, c client.Client, class string, count int) *unrelatedRoutes {
	objects := []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: unrelated}},
		unrelatedDeployment(),
		&gatewayv1.Gateway{
			ObjectMeta: metav1.ObjectMeta{Name: unrelated, Namespace: unrelated},
			Spec: gatewayv1.GatewaySpec{
				GatewayClassName: gatewayv1.ObjectName(class),
				Listeners:        []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}},
			},
		},
	}
	for index := range count {
		objects = append(objects, unrelatedService(index), unrelatedRoute(index))
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
	gateway := &gatewayv1.Gateway{}
	require.NoError(t, c.Get(t.Context(), client.ObjectKey{Namespace: unrelated, Name: unrelated}, gateway))
	require.NotEmpty(t, gateway.Status.Addresses)
	routes := &unrelatedRoutes{
		count:  count,
		socket: net.JoinHostPort(gateway.Status.Addresses[0].Value, "80"),
		client: &http.Client{Timeout: 10 * time.Second},
	}
	for index := range count {
		answers := func(ctx context.Context) (bool, error) { return routes.ask(ctx, index) == nil, nil }
		err := wait.PollUntilContextTimeout(t.Context(), unrelatedPause, unrelatedDeadline, true, answers)
		require.NoError(t, err, "unrelated route %d did not answer", index)
	}
	return routes
}

// watch asks one route after the other until the function that it gives is called, which tells the failures.
func (r *unrelatedRoutes) watch() (end func() (asked int, failures []string)) {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	var asked int
	var failures []string
	group.Go(func() {
		ticker := time.NewTicker(unrelatedPause)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			// Its own deadline and not the end's: what is under way at the end is waited for.
			if err := r.ask(context.Background(), asked%r.count); err != nil && len(failures) < unrelatedComplaints {
				failures = append(failures, err.Error())
			}
			asked++
		}
	})
	return func() (int, []string) {
		cancel()
		group.Wait()
		return asked, failures
	}
}

// askAll asks every route once.
func (r *unrelatedRoutes) askAll(t *testing.T) {
	for index := range r.count {
		require.NoError(t, r.ask(t.Context(), index))
	}
}

// ask sends a request to a route's host; the answer has to be its pod's.
func (r *unrelatedRoutes) ask(ctx context.Context, index int) error {
	host := unrelatedName(index) + ".example"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.socket+"/", nil)
	if err != nil {
		return err
	}
	request.Host = host
	response, err := r.client.Do(request)
	if err != nil {
		return fmt.Errorf("%s: %w", host, err)
	}
	defer response.Body.Close()
	var echo struct {
		Host      string `json:"host"`
		Namespace string `json:"namespace"`
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", host, response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(&echo); err != nil {
		return fmt.Errorf("%s: %w", host, err)
	}
	if echo.Host != host || echo.Namespace != unrelated {
		return fmt.Errorf("%s: answered as %s in %s", host, echo.Host, echo.Namespace)
	}
	return nil
}

func unrelatedName(index int) string { return fmt.Sprintf("unrelated-%d", index) }

func unrelatedDeployment() *appsv1.Deployment {
	labels, replicas := map[string]string{"app": unrelated}, int32(1)
	field := &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: unrelated, Namespace: unrelated},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: unrelated,
					// As the suite's own Deployments.
					Image: "registry.k8s.io/gateway-api/echo-basic:v1.5.1",
					Env:   []corev1.EnvVar{{Name: "NAMESPACE", ValueFrom: field}},
					Ports: []corev1.ContainerPort{{ContainerPort: unrelatedPort}},
				}}},
			},
		},
	}
}

func unrelatedService(index int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: unrelatedName(index), Namespace: unrelated},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": unrelated},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(unrelatedPort)}},
		},
	}
}

func unrelatedRoute(index int) *gatewayv1.HTTPRoute {
	name, port := unrelatedName(index), gatewayv1.PortNumber(80)
	backend := gatewayv1.HTTPBackendRef{BackendRef: gatewayv1.BackendRef{
		BackendObjectReference: gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(name), Port: &port},
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
