//! `import`: what a console shows of the numbers, because webhooks tell only changes.

use std::{io::Write, path::PathBuf, sync::Arc};

use clap::{Arg, ArgMatches, Command, value_parser};
use tokio::runtime;

use super::{
    Verb, given,
    numbers::{format, format_option, read},
    print,
    progress::Progress,
    serve,
};
use crate::{
    state::{Fold, Observation, Table, Update},
    store::{Commit, Sqlite, Store},
};
#[cfg(feature = "etcd")]
use crate::{store::Etcd, telemetry::Telemetry};

pub(super) const VERB: Verb = Verb { command, run };

fn command() -> Command {
    Command::new("import")
        .about("take the names and limits of numbers that a console shows")
        .after_help(
            "The columns of CSV, and the keys of an object of the JSON list, are provider, \
             waba_id, phone_number, name and messaging_limit, such as 10K or unlimited. An \
             imported limit is no event and no change, and a webhook replaces it; a limit that a \
             webhook has reported stays. Stop an exporter with an embedded storage first, because \
             the import needs that for itself; replicas on etcd may run. It takes all numbers or, \
             where one is wrong, none.\n\n\
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
    let (folder, max_phone_numbers) = serve::storage(matches);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        #[cfg(feature = "etcd")]
        if let Some(options) = serve::etcd::options(matches) {
            let telemetry = Telemetry::new().and_then(|telemetry| telemetry.replication());
            let metrics = telemetry.map_err(|error| error.to_string())?;
            let checked = Etcd::check(options.clone()).await;
            checked.map_err(|error| error.to_string())?;
            let store = Etcd::open(options, metrics).map_err(|error| error.to_string())?;
            return import(store, &numbers, max_phone_numbers, &progress).await;
        }
        let store = Sqlite::open(&folder).map_err(|error| error.to_string())?;
        import(store, &numbers, max_phone_numbers, &progress).await
    })?;
    drop(progress);
    print(output, &format!("{} numbers imported\n", numbers.len()))
}

const NEWER: &str = "a newer version of this program has stored something: import with that one";

async fn import<S: Store>(
    mut store: S,
    numbers: &[Observation],
    max_phone_numbers: usize,
    progress: &Progress,
) -> Result<(), String> {
    let mut fold = Fold::new(Arc::new(Table::default()), max_phone_numbers);
    let mut has_newer = false;
    let mut each = |update| {
        has_newer |= matches!(update, Update::Newer(_));
        fold.adopt(&update);
    };
    let loaded = store.load(&mut each).await;
    loaded.map_err(|error| error.to_string())?;
    if has_newer {
        return Err(NEWER.into());
    }
    let mut draft = fold.draft();
    progress.step("importing", numbers.len());
    for number in numbers {
        if !draft.observe(number) {
            return Err(format!(
                "there would be more than {max_phone_numbers} numbers \
                 (--limits.max-phone-numbers); nothing is imported"
            ));
        }
        progress.advance();
    }
    progress.last_step("storing");
    drop(draft);
    let mut left = numbers;
    while !left.is_empty() {
        let mut draft = fold.draft();
        let mut rest = left;
        while let [number, others @ ..] = rest
            && draft.documents() < S::MAX_DOCUMENTS
        {
            draft.observe(number);
            rest = others;
        }
        let batch = draft.batch();
        match store.commit(&batch).await {
            Ok(Commit::Stored) => {
                draft.publish(&batch);
                left = rest;
            }
            Ok(Commit::Conflict(updates)) => {
                drop(draft);
                if updates
                    .iter()
                    .any(|update| matches!(update, Update::Newer(_)))
                {
                    return Err(NEWER.into());
                }
                updates.iter().for_each(|update| fold.adopt(update));
            }
            Err(error) => {
                let imported = numbers.len() - left.len();
                return Err(match imported {
                    0 => format!("{error}; nothing is imported"),
                    _ => format!("{error}; {imported} numbers are imported: import the file again"),
                });
            }
        }
    }
    Ok(())
}
