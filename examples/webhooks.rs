//! Prints a `curl` line for each provider, with the delivery that it documents; with `names` all
//! providers' names.

#![allow(clippy::print_stdout, reason = "that is what it is for")]

use whatsapp_quality_exporter::providers::{self, Example};

fn main() {
    if std::env::args().nth(1).as_deref() == Some("names") {
        let names: Vec<_> = providers::ALL
            .iter()
            .map(|provider| provider.name.as_str())
            .collect();
        println!("{}", names.join(","));
        return;
    }
    println!(
        "Anybody who reaches port 10878 can send this exporter webhooks of all providers, because it has no secrets: \
         --webhook.allow-unauthenticated names them. Keep it on this machine.\n"
    );
    println!("Send a webhook, each line as it is, and look at http://127.0.0.1:10877/metrics:\n");
    for provider in providers::ALL {
        let url = format!("http://127.0.0.1:10878/webhooks/{}", provider.name.as_str());
        match provider.example {
            Example::Query(query) => println!("curl '{url}?{query}'\n"),
            Example::Json(body) => println!("curl -d '{body}' {url}\n"),
        }
    }
}
