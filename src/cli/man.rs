//! `man`: the manual page, made of the same texts as the help.

use clap::{Arg, Command};
use clap_mangen::Man;

use super::{Verb, given, print};

pub(super) const VERB: Verb = Verb {
    command,
    run: |matches, output| {
        let mut page = super::command();
        page.build();
        if let Some(name) = given::<String>(matches, "COMMAND") {
            let of_verb = page.find_subcommand(name);
            let of_verb = of_verb.ok_or_else(|| format!("there is no command {name:?}"))?;
            page = of_verb.clone();
        }
        let mut text = Vec::new();
        let written = Man::new(page).render(&mut text);
        written.map_err(|error| format!("the manual page cannot be made: {error}"))?;
        print(output, &String::from_utf8_lossy(&text))
    },
};

fn command() -> Command {
    Command::new("man")
        .about("print the manual page, in the format of man")
        .after_help("Examples:\n  whatsapp-quality-exporter man | man -l -\n  whatsapp-quality-exporter man send | man -l -")
        .arg(Arg::new("COMMAND").help("the command whose page to print; without it, that of the program"))
}
