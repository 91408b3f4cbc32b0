//! A connection to a TLS listener, from its first byte to where it is served.
//!
//! 1. The ClientHello is read, bounded in bytes and time, and not used up.
//! 2. Its server name finds the listeners; they say whether the stream is passed on as it is, or TLS ends here.
//! 3. Where it ends here hands are shaken, and what is inside is HTTP, or bytes for a backend.
//!
//! Who asks for a name that nobody serves is closed without a word, and learns nothing: a TLS alert would say that there is something.
//! A listener that cannot shake hands (no certificate, nothing to verify clients with) says so with an alert.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use rustls::{ServerConfig, ServerConnection};
use weir_model::table::TlsMode;

use super::hello::{self, Hello, HelloError};
use super::session::{HandshakeError, Session};
use crate::clock::Moment;
use crate::deadline::Deadline;
use crate::error::Failure;
use crate::http::h1;
use crate::io::Socket;
use crate::record::RequestRecord;
use crate::tcp;
use crate::worker::{Established, Front, Incoming, Worker};

/// A fatal alert, `handshake_failure`, as a record (RFC 8446 sections 5.1 and 6).
const HANDSHAKE_FAILURE: &[u8] = &[21, 3, 3, 0, 2, 2, 40];

/// What becomes of a connection.
enum Way {
    Pass,
    /// TLS ends here.
    End {
        config: Arc<ServerConfig>,
        /// The key of the listener with which the connection goes, where what is inside is bytes.
        listener: Option<Arc<str>>,
        /// Where it is HTTP: it goes when none of the listeners that made it is left.
        front: Option<Front>,
    },
}

/// Serves one connection until it ends.
pub(crate) async fn serve(mut incoming: Incoming) {
    let worker = incoming.registered.worker.clone();
    let terms = incoming.bind.terms();
    let limits = &terms.limits;
    let started = worker.clock.now();
    let mut deadline = Deadline::new(started + limits.tls_handshake_timeout, &worker.clock);
    let mut name = None;
    let secured = match read_hello(&mut incoming, limits.client_hello_bytes, &mut deadline, &worker).await {
        Ok(server_name) => {
            name = server_name;
            match way(&worker, &incoming, name.as_deref()) {
                Ok(Way::Pass) => return tcp::serve(incoming, name.as_deref(), true).await,
                Ok(Way::End { config, listener, front }) => {
                    let presence = incoming.registered.presence.clone();
                    *presence.listener.borrow_mut() = listener;
                    presence.front.borrow_mut().clone_from(&front);
                    match shake_hands(&mut incoming, config, &mut deadline, &worker).await {
                        Ok(session) => {
                            incoming.client = incoming.client.encrypted(session);
                            Ok(front)
                        }
                        Err(failure) => Err(failure),
                    }
                }
                Err(failure) => Err(failure),
            }
        }
        Err(failure) => Err(failure),
    };
    match secured {
        Ok(Some(front)) => {
            incoming.front = Some(front);
            h1::serve(incoming).await;
        }
        Ok(None) => tcp::serve(incoming, name.as_deref(), false).await,
        Err(failure) => fail(incoming, started, name.as_deref(), failure, &worker),
    }
}

/// Reads until the ClientHello is there whole; gives the server's name in it.
async fn read_hello(
    incoming: &mut Incoming,
    limit: usize,
    deadline: &mut Deadline,
    worker: &Worker,
) -> Result<Option<Box<[u8]>>, Failure> {
    poll_fn(|cx| {
        loop {
            let Incoming { client, input, .. } = incoming;
            match input.poll_fill(client, &worker.buffers, cx) {
                Poll::Pending => {
                    input.park(&worker.buffers);
                    return deadline.poll(cx, &worker.clock).map(|()| Err(Failure::HandshakeTimeout));
                }
                // There is no room for more.
                Poll::Ready(Err(error)) if error.kind() == std::io::ErrorKind::OutOfMemory => {
                    return Poll::Ready(Err(Failure::Hello(HelloError::TooLarge)));
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Failure::ClientGone)),
                Poll::Ready(Ok(_)) => {}
            }
            worker.clock.tick();
            match hello::read(input.bytes(), limit) {
                Hello::Incomplete => {}
                Hello::Refused(error) => return Poll::Ready(Err(Failure::Hello(error))),
                Hello::Complete { server_name } => return Poll::Ready(Ok(server_name)),
            }
        }
    })
    .await
}

fn way(worker: &Worker, incoming: &Incoming, server_name: Option<&[u8]>) -> Result<Way, Failure> {
    let snapshot = worker.snapshot();
    let bind = incoming.bind.address;
    let table = snapshot.bind(&bind).ok_or(Failure::UnknownName)?;
    let group = table.by_sni(server_name).ok_or(Failure::UnknownName)?;
    let http = match group.tls_mode().ok_or(Failure::UnknownName)? {
        TlsMode::Passthrough => return Ok(Way::Pass),
        TlsMode::Http => true,
        TlsMode::Bytes => false,
    };
    let store = &worker.settings.tls;
    let config = store.front(bind, http, &group.certificates(), group.client_validation());
    // Until its route says which it is.
    let listener = if http { None } else { group.listeners.keys().next().cloned() };
    let established = || Established {
        server_name: server_name.map(Into::into),
        hostname: group.hostname.clone(),
        validation: group.client_validation().cloned(),
    };
    let front = http.then(|| Front(Rc::new(established())));
    Ok(Way::End { config: config.ok_or(Failure::HandshakeRefused)?, listener, front })
}

async fn shake_hands(
    incoming: &mut Incoming,
    config: Arc<ServerConfig>,
    deadline: &mut Deadline,
    worker: &Worker,
) -> Result<Session, Failure> {
    let failed = |error: HandshakeError| {
        tracing::debug!(%error, "hands could not be shaken with a client");
        Failure::Handshake
    };
    let connection = ServerConnection::new(config).map_err(|error| failed(HandshakeError::Tls(error)))?;
    let mut session = Session::new(connection);
    let Incoming { client: Socket::Plain(wire), input, .. } = incoming else {
        return Err(Failure::Handshake);
    };
    if let Err(error) = session.feed(input.bytes()) {
        session.say_why(wire);
        return Err(failed(HandshakeError::Tls(error)));
    }
    input.consume(usize::MAX);
    input.release(&worker.buffers);
    poll_fn(|cx| {
        if let Poll::Ready(shaken) = session.poll_handshake(wire, cx) {
            return Poll::Ready(shaken.map_err(failed));
        }
        deadline.poll(cx, &worker.clock).map(|()| Err(Failure::HandshakeTimeout))
    })
    .await?;
    worker.clock.tick();
    worker.metrics.handshakes.add(1);
    Ok(session)
}

/// Closes a connection that came to nothing.
fn fail(
    mut incoming: Incoming,
    started: Moment,
    server_name: Option<&[u8]>,
    failure: Failure,
    worker: &Worker,
) {
    if failure == Failure::HandshakeRefused {
        // A client that does not take it must do without.
        let _ = incoming.client.try_write(HANDSHAKE_FAILURE);
    }
    incoming.input.consume(usize::MAX);
    incoming.input.release(&worker.buffers);
    worker.metrics.handshake_failures.add(1);
    let mut record = RequestRecord::new(started);
    record.text = tcp::text(&incoming.bind.terms(), incoming.peer, server_name);
    record.failure = Some(failure);
    record.finish_stream(worker);
}
