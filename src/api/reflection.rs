//! Server reflection, so that grpcurl and similar tools need no proto files.
//!
//! It uses only the generated types of tonic-reflection, because that crate's service starts real tokio tasks, which a
//! simulation cannot have.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use mokv_proto::api::DESCRIPTORS;
use mokv_proto::tonic::Streaming;
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet};
use tonic::{Code, Request, Response, Status, async_trait};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::server_reflection_server::{ServerReflection, ServerReflectionServer};
use tonic_reflection::pb::v1::{
    ErrorResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
};

/// The reflection service.
pub type Service = ServerReflectionServer<Reflection>;

/// Returns the reflection service for this server's methods.
pub fn service() -> Service {
    ServerReflectionServer::new(Reflection { files: files().into() })
}

fn files() -> Vec<File> {
    let standard = [tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET];
    let sets = [DESCRIPTORS].into_iter().chain(standard).map(|set| {
        FileDescriptorSet::decode(set).expect("the descriptors were made by a build, ours or tonic's")
    });
    let files = sets.flat_map(|set| set.file).map(|file| {
        let package = file.package().to_string();
        let services: Vec<String> =
            file.service.iter().map(|service| format!("{package}.{}", service.name())).collect();
        let mut symbols: BTreeSet<String> = services.iter().cloned().collect();
        for service in &file.service {
            let methods =
                service.method.iter().map(|method| format!("{package}.{}.{}", service.name(), method.name()));
            symbols.extend(methods);
        }
        file.message_type.iter().for_each(|message| add_symbols(&mut symbols, &package, message));
        symbols.extend(file.enum_type.iter().map(|kind| format!("{package}.{}", kind.name())));
        File { name: file.name().to_string(), symbols, services, descriptor: file.encode_to_vec() }
    });
    files.collect()
}

fn add_symbols(symbols: &mut BTreeSet<String>, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    message.nested_type.iter().for_each(|nested| add_symbols(symbols, &name, nested));
    symbols.insert(name);
}

struct File {
    name: String,
    symbols: BTreeSet<String>,
    services: Vec<String>,
    descriptor: Vec<u8>,
}

/// Answers from the descriptors that the build made.
pub struct Reflection {
    files: Arc<[File]>,
}

fn answer(files: &[File], question: &MessageRequest) -> MessageResponse {
    let error = |code: Code, message: &str| {
        MessageResponse::ErrorResponse(ErrorResponse {
            error_code: code as i32,
            error_message: message.into(),
        })
    };
    let file = |found: Option<&File>| match found {
        Some(file) => MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto: vec![file.descriptor.clone()],
        }),
        None => error(Code::NotFound, "this server has no such file or symbol"),
    };
    match question {
        MessageRequest::ListServices(_) => MessageResponse::ListServicesResponse(ListServiceResponse {
            service: (files.iter().flat_map(|file| &file.services))
                .map(|name| ServiceResponse { name: name.clone() })
                .collect(),
        }),
        MessageRequest::FileByFilename(name) => file(files.iter().find(|file| file.name == *name)),
        MessageRequest::FileContainingSymbol(symbol) => {
            file(files.iter().find(|file| file.symbols.contains(symbol)))
        }
        _ => error(Code::Unimplemented, "this contract has no extensions"),
    }
}

#[async_trait]
impl ServerReflection for Reflection {
    type ServerReflectionInfoStream =
        Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let files = self.files.clone();
        let answers = request.into_inner().map(move |request| {
            let request = request?;
            let question = (request.message_request.as_ref())
                .ok_or_else(|| Status::invalid_argument("the request is empty"))?;
            Ok(ServerReflectionResponse {
                valid_host: request.host.clone(),
                message_response: Some(answer(&files, question)),
                original_request: Some(request),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_describes_itself() {
        let files = files();
        let MessageResponse::ListServicesResponse(list) =
            answer(&files, &MessageRequest::ListServices(String::new()))
        else {
            panic!("services are listed")
        };
        let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        let expected =
            ["api.KV", "api.Admin", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
        assert_eq!(names, expected);
        for symbol in [
            "api.KV",
            "api.KV.Get",
            "api.GetRequest",
            "api.Consistency",
            "api.Admin.Status",
            "grpc.health.v1.HealthCheckRequest",
        ] {
            let found = answer(&files, &MessageRequest::FileContainingSymbol(symbol.into()));
            assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{symbol}");
        }
        // A program that loads these beside other descriptors gets no file and no message twice.
        let ours: Vec<_> = (files.iter())
            .filter(|file| file.symbols.iter().any(|symbol| symbol.starts_with("api.")))
            .map(|file| file.name.as_str())
            .collect();
        assert_eq!(ours, ["mokv/v1/kv.proto", "mokv/v1/admin.proto"]);
        assert!(files.iter().all(|file| !file.symbols.contains("google.rpc.Status")));
        let unknown = answer(&files, &MessageRequest::FileByFilename("nothing.proto".into()));
        assert!(matches!(unknown, MessageResponse::ErrorResponse(_)));
    }
}
