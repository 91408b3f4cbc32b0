//! `kong/go-echo`: lines that tell where one is connected to, then an empty line.

use http::StatusCode;

use super::{Answer, Arrival, Asked, Stand, text};

pub(super) fn answer(stand: &Stand, arrival: &Arrival, asked: &Asked) -> Answer {
    stand.log_request(arrival, asked);
    let mut lines = match stand.variable("NODE_NAME") {
        Some(node) => format!("Welcome, you are connected to node {node}.\n"),
        None => "Welcome.\n".to_owned(),
    };
    for (variable, before) in
        [("POD_NAME", "Running on Pod "), ("NAMESPACE", "In namespace "), ("POD_IP", "With IP address ")]
    {
        if let Some(value) = stand.variable(variable) {
            lines.push_str(before);
            lines.push_str(value);
            lines.push_str(".\n");
        }
    }
    lines.push('\n');
    text(StatusCode::OK, lines)
}
