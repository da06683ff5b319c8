"""Fields of a config state their meaning in their type; in the reference it is their documentation."""

import ast
import copy

import griffe


class _Plain(ast.NodeTransformer):
    """Replaces `Annotated[type, ...]` by the type."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        match node:
            case ast.Subscript(value=ast.Name("Annotated"), slice=ast.Tuple([plain, *_])):
                return plain
        return node


class Sentences(griffe.Extension):
    """Takes `Annotated[type, Field(description="sentence")]` apart."""

    def on_attribute_instance(self, *, node: ast.AST, attr: griffe.Attribute, **_: object) -> None:
        """Of a field with such a type."""
        match node:
            case ast.AnnAssign(annotation=ast.Subscript(value=ast.Name("Annotated"), slice=ast.Tuple([_, *metadata])) as annotation):
                attr.annotation = ast.unparse(_Plain().visit(copy.deepcopy(annotation)))
                for call in metadata:
                    for keyword in call.keywords if isinstance(call, ast.Call) else ():
                        if keyword.arg == "description" and isinstance(keyword.value, ast.Constant):
                            attr.docstring = griffe.Docstring(str(keyword.value.value), parent=attr)
