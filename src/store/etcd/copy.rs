//! Copying all documents of a cluster, or into an empty one.

use etcd_client::{Compare, CompareOp, Txn, TxnOp};

use super::{
    super::{
        Record, StoreError,
        document::{self, Unreadable},
    },
    Etcd, OPERATIONS,
    cluster::{Cluster, Failure},
    keys::{Key, Keys},
};
use crate::config::EtcdOptions;

/// The documents of a transaction have this size at most, unless it is one: etcd takes 1.5 MiB.
const TRANSACTION_BYTES: usize = 512 << 10;

impl Etcd {
    /// Hands every record below the prefix to `each`, as all are at one moment.
    ///
    /// # Errors
    ///
    /// Where the cluster does not answer, and where a document cannot be read.
    pub async fn read(
        options: EtcdOptions,
        each: &mut dyn FnMut(Record),
    ) -> Result<(), StoreError> {
        let keys = Keys::new(&options.prefix);
        let mut cluster = Cluster::new(options)?;
        for kv in cluster.list(keys.prefix().to_vec()).await? {
            let Some(key) = keys.strip(kv.key()) else {
                continue;
            };
            if matches!(Key::of(key), Key::Record | Key::Other) {
                let texts = str::from_utf8(key)
                    .ok()
                    .zip(str::from_utf8(kv.value()).ok());
                let record = match texts {
                    Some((key, value)) => document::read(key, value),
                    None => Err(Unreadable::Damaged("a document is not text")),
                };
                let record = record.map_err(StoreError::etcd_unreadable)?;
                record.into_iter().for_each(&mut *each);
            }
        }
        Ok(())
    }

    /// Stores records below a prefix that has none. `advance` is called for each.
    ///
    /// # Errors
    ///
    /// Where the cluster does not answer, and where there is something below the prefix. After an
    /// error that came later, some of the records are stored.
    pub async fn fill(
        options: EtcdOptions,
        records: &[Record],
        advance: &dyn Fn(),
    ) -> Result<(), StoreError> {
        let keys = Keys::new(&options.prefix);
        let mut cluster = Cluster::new(options)?;
        if !cluster.is_empty(keys.prefix()).await? {
            return Err(StoreError::etcd_not_empty());
        }
        let mut compares = Vec::new();
        let mut puts = Vec::new();
        let mut bytes = 0;
        let mut left = records.len();
        for record in records {
            let key = keys.full(&document::key_of(record).map_err(StoreError::unwritable)?);
            let mut value = Vec::new();
            document::write(record, &mut value).map_err(StoreError::unwritable)?;
            bytes += value.len();
            compares.push(Compare::mod_revision(key.clone(), CompareOp::Equal, 0));
            puts.push(TxnOp::put(key, value, None));
            left -= 1;
            if puts.len() == OPERATIONS || bytes > TRANSACTION_BYTES || left == 0 {
                let txn = Txn::new()
                    .when(std::mem::take(&mut compares))
                    .and_then(std::mem::take(&mut puts));
                match cluster.commit(txn).await {
                    Ok(response) if response.succeeded() => {}
                    Ok(_) => return Err(StoreError::etcd_not_empty()),
                    Err(Failure::Refused(error)) => return Err(error),
                    Err(Failure::Unknown(what)) => {
                        return Err(StoreError::etcd_unavailable(&what));
                    }
                }
                bytes = 0;
            }
            advance();
        }
        Ok(())
    }
}
