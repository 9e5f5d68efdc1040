//! The table of all methods that a node serves: the class of requests, the kind of answer and its longest time.
//!
//! One row per method. A method without a row is not served. A test compares the table with the generated descriptors.

use std::time::Duration;

use tonic::Status;

use crate::metrics::MethodName;
use crate::service::{
    Backup, Changes, Class, CloseSession, Compact, Configure, Delete, Get, Leave, List, MAX_BACKUP_TIME,
    Members, OpenSession, Operation, RemoveMember, Set, Status as NodeStatus, TakeSnapshot, Transact,
    TransferLeader, Versions,
};

/// Longest time of streams of health and reflection: practically unbounded.
const MAX_WATCH_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// A method and its rules.
#[derive(Debug)]
pub(super) struct Method {
    pub name: MethodName,
    /// The class whose places its requests take.
    pub class: Class,
    /// The longest time of a streamed answer. `None`: one message, by the call's deadline.
    pub stream: Option<Longest>,
    /// Whether its request is a stream, too.
    pub takes_stream: bool,
    /// The longest deadline that a client may set, where it is not `request-timeout`.
    pub within: Option<Duration>,
}

/// The longest time of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) enum Longest {
    /// `max-list-time`.
    ListTime,
    /// A constant of the code.
    Constant(Duration),
}

const fn unary(service: &'static str, method: &'static str, class: Class) -> Method {
    Method { name: MethodName { service, method }, class, stream: None, takes_stream: false, within: None }
}

const fn streams(service: &'static str, method: &'static str, class: Class, longest: Longest) -> Method {
    Method { stream: Some(longest), ..unary(service, method, class) }
}

static METHODS: [Method; 21] = [
    unary("api.KV", "Get", Get::CLASS),
    unary("api.KV", "Set", Set::CLASS),
    unary("api.KV", "Delete", Delete::CLASS),
    streams("api.KV", "List", List::CLASS, Longest::ListTime),
    streams("api.KV", "Versions", Versions::CLASS, Longest::ListTime),
    streams("api.KV", "Changes", Changes::CLASS, Longest::ListTime),
    unary("api.KV", "GetServers", Members::CLASS),
    unary("api.KV", "Transact", Transact::CLASS),
    unary("api.KV", "OpenSession", OpenSession::CLASS),
    unary("api.KV", "CloseSession", CloseSession::CLASS),
    unary("api.Admin", "Status", NodeStatus::CLASS),
    unary("api.Admin", "TransferLeader", TransferLeader::CLASS),
    unary("api.Admin", "RemoveMember", RemoveMember::CLASS),
    unary("api.Admin", "Leave", Leave::CLASS),
    // As long as it takes to write all that there is.
    Method { within: Some(MAX_BACKUP_TIME), ..unary("api.Admin", "Snapshot", TakeSnapshot::CLASS) },
    streams("api.Admin", "Backup", Backup::CLASS, Longest::Constant(MAX_BACKUP_TIME)),
    unary("api.Admin", "Configure", Configure::CLASS),
    unary("api.Admin", "Compact", Compact::CLASS),
    unary("grpc.health.v1.Health", "Check", Class::Exempt),
    streams("grpc.health.v1.Health", "Watch", Class::Exempt, Longest::Constant(MAX_WATCH_TIME)),
    Method {
        takes_stream: true,
        ..streams(
            "grpc.reflection.v1.ServerReflection",
            "ServerReflectionInfo",
            Class::Exempt,
            Longest::Constant(MAX_WATCH_TIME),
        )
    },
];

/// Returns the names of all methods in the table's order. Requests are counted by this index.
pub fn names() -> impl Iterator<Item = MethodName> {
    METHODS.iter().map(|method| method.name)
}

impl Method {
    /// Returns the method at a path, `/SERVICE/METHOD`, and its index in the table.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` if there is no such service or method.
    pub(super) fn of(path: &str) -> Result<(usize, &'static Method), Status> {
        let none = || Status::unimplemented("no such method");
        let (service, name) =
            path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or_else(none)?;
        let mut of_service =
            METHODS.iter().enumerate().filter(|(_, method)| method.name.service == service).peekable();
        if of_service.peek().is_none() {
            return Err(Status::unimplemented(format!("this server has no service {service}")));
        }
        of_service.find(|(_, method)| method.name.method == name).ok_or_else(none)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mokv_proto::api::DESCRIPTORS;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn the_table_is_what_the_descriptors_say() {
        let sets = [
            DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        let files = sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file);
        let declared: BTreeSet<(String, bool, bool)> = files
            .flat_map(|file| {
                let package = file.package().to_owned();
                file.service.into_iter().map(move |service| (package.clone(), service))
            })
            .flat_map(|(package, service)| {
                let of_service = format!("/{package}.{}", service.name());
                service.method.into_iter().map(move |method| {
                    let path = format!("{of_service}/{}", method.name());
                    (path, method.server_streaming(), method.client_streaming())
                })
            })
            .collect();
        let served: BTreeSet<(String, bool, bool)> = METHODS
            .iter()
            .map(|method| {
                let MethodName { service, method: name } = method.name;
                (format!("/{service}/{name}"), method.stream.is_some(), method.takes_stream)
            })
            .collect();
        assert_eq!(served, declared);
        for (path, ..) in &declared {
            let (place, method) = Method::of(path).unwrap();
            assert_eq!(names().nth(place), Some(method.name));
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_not_served() {
        for path in ["", "/", "api.KV/Get", "/api.KV", "/api.KV/", "/api.KV/get", "/api.Kv/Get", "//Get"] {
            assert_eq!(Method::of(path).unwrap_err().code(), tonic::Code::Unimplemented, "{path}");
        }
    }
}
