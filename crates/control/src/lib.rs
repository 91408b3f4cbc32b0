//! The Kubernetes client side: watch, translate, write statuses, provision.
