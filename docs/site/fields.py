"""Fields of a config state their meaning in their type; in the reference it is their documentation."""

import ast

import griffe


class Sentences(griffe.Extension):
    """Takes `Annotated[type, "sentence"]` apart."""

    def on_attribute_instance(self, *, node: ast.AST, attr: griffe.Attribute, **_: object) -> None:
        """Of a field with such a type."""
        match node:
            case ast.AnnAssign(annotation=ast.Subscript(value=ast.Name("Annotated"), slice=ast.Tuple([_, ast.Constant(str(sentence))]))):
                assert isinstance(attr.annotation, griffe.ExprSubscript) and isinstance(attr.annotation.slice, griffe.ExprTuple)
                attr.annotation = attr.annotation.slice.elements[0]
                attr.docstring = griffe.Docstring(sentence, parent=attr)
