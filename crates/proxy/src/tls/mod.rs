pub(crate) mod hello;
pub(crate) mod session;
