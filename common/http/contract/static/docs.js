// Draws the OpenAPI document of the service that this page comes from. Requests are tried on that service.
"use strict";

// What any request may be answered stands in the document's components. It is shown once, above all operations.
function withoutCommonAnswers(document_) {
  for (const methods of Object.values(document_.paths)) {
    for (const { responses } of Object.values(methods)) {
      for (const status of Object.keys(responses)) {
        if (responses[status].$ref) delete responses[status];
      }
    }
  }
  const common = Object.entries(document_.components.responses);
  const answers = common.map(([status, { description }]) => `- ${status} ${description}`).join("\n");
  document_.info.description += `\nAny request may also be answered:\n\n${answers}`;
  return document_;
}

fetch("/openapi.json")
  .then((answer) => answer.json())
  .then((document_) => {
    document.title = document_.info.title;
    SwaggerUIBundle({
      spec: withoutCommonAnswers(document_),
      dom_id: "#docs",
      deepLinking: true,
      defaultModelsExpandDepth: 0,
      displayRequestDuration: true,
      validatorUrl: null,
    });
  });
