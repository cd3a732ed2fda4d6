//! `completions`: the script with which a shell completes verbs and flags.

use clap::{Arg, Command, value_parser};
use clap_complete::{Shell, generate};

use super::{Verb, given, print};

pub(super) const VERB: Verb = Verb {
    command,
    run: |matches, output| {
        let Some(shell) = given::<Shell>(matches, "SHELL") else {
            return Ok(());
        };
        let mut script = Vec::new();
        generate(
            *shell,
            &mut super::command(),
            env!("CARGO_PKG_NAME"),
            &mut script,
        );
        print(output, &String::from_utf8_lossy(&script))
    },
};

fn command() -> Command {
    Command::new("completions")
        .about("print the script with which a shell completes commands and flags")
        .after_help(
            "Example:\n  whatsapp-quality-exporter completions bash \
             >/usr/share/bash-completion/completions/whatsapp-quality-exporter",
        )
        .arg(
            Arg::new("SHELL")
                .help("the shell")
                .required(true)
                .value_parser(value_parser!(Shell)),
        )
}
