//! `import`: what a console shows of the numbers, because webhooks tell only changes.

use std::{io::Write, path::PathBuf, sync::Arc};

use clap::{Arg, ArgMatches, Command, value_parser};

use super::{
    Verb, given,
    numbers::{format, format_option, read},
    print,
    progress::Progress,
    serve,
};
use crate::{
    state::{Fold, Table},
    store::{Sqlite, Store},
};

pub(super) const VERB: Verb = Verb { command, run };

fn command() -> Command {
    Command::new("import")
        .about("take the names and limits of numbers that a console shows")
        .after_help(
            "The columns of CSV, and the keys of an object of the JSON list, are provider, \
             waba_id, phone_number, name and messaging_limit, such as 10K or unlimited. An \
             imported limit is no event and no change, and a webhook replaces it; a limit that a \
             webhook has reported stays. Stop the exporter first: the import needs the storage \
             for itself. It takes all numbers or, where one is wrong, none.\n\n\
             Example:\n  whatsapp-quality-exporter import numbers.csv\n\n\
             The exit status is 0 where all numbers were taken, otherwise 1.",
        )
        .arg(
            Arg::new("FILE")
                .help("the file; - is standard input")
                .required(true)
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(format_option())
        .args(serve::storage_flags())
}

fn run(matches: &ArgMatches, output: &mut dyn Write) -> Result<(), String> {
    let Some(path) = given::<PathBuf>(matches, "FILE") else {
        return Ok(());
    };
    let progress = Progress::new();
    let numbers = read(path, format(matches, path), &progress)?;
    let (storage, max_phone_numbers) = serve::storage(matches);
    let mut store = Sqlite::open(&storage).map_err(|error| error.to_string())?;
    let mut fold = Fold::new(Arc::new(Table::default()), max_phone_numbers);
    let loaded = store.load(&mut |record| fold.restore(record));
    loaded.map_err(|error| error.to_string())?;
    let mut draft = fold.draft();
    progress.step("importing", numbers.len());
    for number in &numbers {
        if !draft.observe(number) {
            return Err(format!(
                "there would be more than {max_phone_numbers} numbers \
                 (--limits.max-phone-numbers); nothing is imported"
            ));
        }
        progress.advance();
    }
    progress.last_step("storing");
    let stored = store.commit(&draft.batch());
    stored.map_err(|error| format!("{error}; nothing is imported"))?;
    drop(progress);
    print(output, &format!("{} numbers imported\n", numbers.len()))
}
