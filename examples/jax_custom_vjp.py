"""A JAX custom_vjp: log(1 + exp(x)) with the derivative that does not overflow."""

import jax
import jax.numpy as jnp

from backprop_rules import check_function


@jax.custom_vjp
def softplus(x):
    return jnp.logaddexp(x, 0.0)


softplus.defvjp(lambda x: (softplus(x), x), lambda x, grad_y: (grad_y * jax.nn.sigmoid(x),))


@jax.custom_vjp
def at_the_output(x):
    return jnp.logaddexp(x, 0.0)


# What was saved is y, and the derivative is taken there.
at_the_output.defvjp(lambda x: (softplus(x), softplus(x)), lambda y, grad_y: (grad_y * jax.nn.sigmoid(y),))


def report(function):
    return check_function(function, "softplus", framework="jax", dtypes=["float32"], raise_on_failure=False)


RIGHT, WRONG = (lambda: report(softplus)), (lambda: report(at_the_output))

if __name__ == "__main__":
    print(RIGHT(), WRONG(), sep="\n\n")
