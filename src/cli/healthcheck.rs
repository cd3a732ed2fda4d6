//! `healthcheck`: whether an exporter that runs is ready, for containers, which have no other
//! client in them.

use clap::Command;

use super::{
    Verb,
    client::{agent, no_answer},
    given, option, print,
};

pub(super) const VERB: Verb = Verb {
    command,
    run: |matches, output| {
        let url = given::<String>(matches, "url").map_or("", String::as_str);
        let url = format!("{}/-/ready", url.trim_end_matches('/'));
        let answer = agent().get(&url).call();
        let mut answer = answer.map_err(|error| no_answer(&url, "web", &error))?;
        let status = answer.status();
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        match status.as_u16() {
            200 => print(output, "ready\n"),
            _ => Err(format!("{url} answered {status}: {}", text.trim_end())),
        }
    },
};

fn command() -> Command {
    Command::new("healthcheck")
        .about("ask whether an exporter that runs is ready")
        .after_help(
            "The exit status is 0 where it is ready, and 1 where it is not or does not answer.",
        )
        .arg(
            option("url", "URL", "the address of its web listener")
                .default_value("http://127.0.0.1:10877"),
        )
}
