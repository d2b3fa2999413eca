// Package tlogmirror is a cosigner of transparency logs over HTTP: a mirror that holds
// all entries (c2sp.org/tlog-mirror), or a witness that holds none
// (c2sp.org/tlog-witness), with its keys and its state on disk. It imports the formats
// and pure transitions below node/ledger and in quorum; node calls it.
//
// One durable record per origin says what the keys may have signed (quorum.State). All
// ways in go through Member.Change, which makes the record durable before anything
// that it allows leaves the process. On disk, in the cosigner's folder:
//
//	lock             one process at a time
//	cosigner.json    the secret keys, and the origins that they have a record for
//	ORIGIN/          the SHA-256 hash of the origin, in hexadecimal
//	  record         quorum.State
//	  checkpoint     what is served: the newest cosigned checkpoint. Made again from
//	                 the record if it is lost or older
//	  log/           of a mirror: entries and hashes (replica.Tree). May be ahead of
//	                 the record by entries that are proven to be pending
package tlogmirror
