//! The data plane: runs a snapshot on sockets.
